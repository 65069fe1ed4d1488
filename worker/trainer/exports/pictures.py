"""What the pictures of a finished run show. They are drawn later, since a short job would wait for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shared.jobs import curves
from shared.jobs.curves import Series
from shared.pictures import sheets
from shared.pictures.drawing import Array, Drawing, FirstLayer, ShownImages
from worker.trainer.data.datasets import Data
from worker.trainer.data.normalization import to_pixels

SHOWN, SHOWN_UNITS = 40, 60
NO_IMAGES = np.zeros((0, 1, 1, 1), np.uint8)


class Tested(NamedTuple):
    """Of each image of the test split, on the CPU: true and predicted label (N), and the confidence in the latter (N),
    0 to 1."""

    true: Tensor
    predicted: Tensor
    confidence: Tensor


def tested(true: Tensor, logits: Tensor) -> Tested:
    """true (N), logits (N,K)"""
    confidence, predicted = torch.softmax(logits.float(), 1).max(1)
    return Tested(true.cpu(), predicted, confidence)


def drawing_of(title: str, series: Series, data: Data, model: nn.Module, tested: Tested, matrix: Tensor) -> Drawing:
    """matrix (K,K): see `Drawing`."""
    return Drawing(
        title=title,
        series={name: curves.thin(points, curves.PICTURE_POINTS) for name, points in series.items()},
        classes=list(data.info.classes),
        matrix=matrix.numpy(),
        predictions=shown(data, balanced(tested.true, SHOWN), tested),
        mistakes=shown(data, surest_mistakes(tested), tested),
        first_layer=first_layer(model, data),
    )


def balanced(true: Tensor, most: int) -> Tensor:
    """Places (at most `most`) of images with equal numbers of each class: the first of each class in order of the
    classes, then the second of each, and so on. true (N) on the CPU."""
    by_class = true.argsort(stable=True)
    classes = true[by_class].contiguous()
    rounds = torch.arange(len(true)) - torch.searchsorted(classes, classes)  # how many of its class are before it
    return by_class[rounds.argsort(stable=True)][:most]


def surest_mistakes(tested: Tested) -> Tensor:
    """Places of the wrongly labelled images, at most SHOWN of those with the highest confidence."""
    wrong = (tested.true != tested.predicted).nonzero().squeeze(1)
    return wrong[tested.confidence[wrong].argsort(descending=True, stable=True)][:SHOWN]


def shown(data: Data, places: Tensor, tested: Tested) -> ShownImages:
    """The test images at these places."""
    images = to_pixels(data.test_images[places.to(data.test_images.device)], data.normalization)
    tiles = [sheets.reduced(image) for image in to_bytes(images)]
    true, predicted, confidence = (values[places].tolist() for values in tested)
    return ShownImages(np.stack(tiles) if tiles else NO_IMAGES, true, predicted, confidence)


def to_bytes(images: Tensor) -> Array:
    """(N,C,H,W) in [0, 1] -> (N,H,W,C) uint8 of three channels, or of the first one if there are not three."""
    if images.shape[1] != 3:
        images = images[:, :1]
    return images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def first_layer(model: nn.Module, data: Data) -> FirstLayer | None:
    """None if the model is not an nn.Sequential, or the images have neither one nor three channels."""
    row = list(model) if isinstance(model, nn.Sequential) else []
    layers = [layer for layer in row if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers or data.info.shape[0] not in (1, 3):
        return None
    first = layers[0]
    weights = first.weight.detach().cpu()
    shape = data.info.shape if isinstance(first, nn.Linear) else tuple(weights.shape[1:])
    images = weights[:SHOWN_UNITS].view(-1, *shape)
    largest = max(images.abs().max().item(), 1e-12)
    shades = images / largest
    is_grey = shape[0] == 3
    pixels = to_bytes((shades + 1) / 2) if is_grey else sheets.diverging(shades[:, 0].numpy())
    tiles = np.stack([sheets.reduced(image) for image in pixels])
    return FirstLayer(tiles, len(weights), largest, is_grey, is_last=len(layers) == 1)
