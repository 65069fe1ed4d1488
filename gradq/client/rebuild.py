"""Rebuilds a trained model as a torch module from model.json and model.safetensors. Only this module imports torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

FORMAT = "gradq-model/1"
LAYERS = {
    kind.__name__: kind
    for kind in (
        *(nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool2d, nn.Flatten, nn.Dropout),
        *(nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Identity),
    )
}


@dataclass(frozen=True)
class Normalize:
    """Normalizes pixels as in training: (pixel - mean) / std, per channel."""

    mean: list[float]
    std: list[float]

    def __call__(self, images: Tensor) -> Tensor:
        """(N,C,H,W) in [0, 1] -> the same shape"""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


def load(folder: str | Path, weights: str = "model.safetensors") -> nn.Module:
    """The model whose files are in `folder`, on the CPU and in evaluation mode: normalized images in, logits out.

    Raises ValueError for a format or layer that it does not know, OSError for a missing file. The module has the
    attributes `normalize` (from images in [0, 1] to its input), `input_shape` (C,H,W) and `classes`:

        net(net.normalize(images)).argmax(1)      # images (N,C,H,W) in [0, 1]
    """
    folder = Path(folder)
    description = json.loads((folder / "model.json").read_text())
    if description.get("format") != FORMAT:
        raise ValueError(f"model.json has the format {description.get('format')!r}; this version reads {FORMAT!r}")
    net = (
        torchvision_model(description["torchvision"])
        if description["layers"] is None
        else sequential(description["layers"])
    )
    net.load_state_dict(load_file(folder / weights))
    scale = description["normalization"]
    net.normalize = Normalize(scale["mean"], scale["std"])  # type: ignore[assignment]
    net.input_shape = tuple(description["input_shape"])  # type: ignore[assignment]
    net.classes = list(description["classes"])  # type: ignore[assignment]
    return net.eval()


def sequential(layers: list[dict[str, Any]]) -> nn.Sequential:
    """The module of a linear, mlp or cnn model."""
    return nn.Sequential(*map(_layer, layers))


def torchvision_model(recipe: dict[str, Any]) -> nn.Module:
    """A torchvision model, with those layers replaced that did not fit the data."""
    net: nn.Module = _torchvision_models().get_model(recipe["name"], weights=None, **recipe["arguments"])
    for path, layer in recipe["replace"].items():
        net.set_submodule(path, _layer(layer))
    if recipe["enlarge"]:
        net.register_forward_pre_hook(Enlarge(*recipe["enlarge"]))
    return net


@dataclass(frozen=True)
class Enlarge:
    """Resizes images to the size that the model was made for."""

    height: int
    width: int

    def __call__(self, net: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return F.interpolate(inputs[0], (self.height, self.width), mode="bilinear")


def _layer(layer: dict[str, Any]) -> nn.Module:
    if layer["type"] not in LAYERS:
        raise ValueError(f"the model has a layer {layer['type']!r}, which is not one of {', '.join(LAYERS)}")
    return LAYERS[layer["type"]](**layer["arguments"])


_declared: list[Any] = []  # keeps the libraries alive: a torch.library.Library undoes its definitions when collected


def _torchvision_models() -> Any:
    """torchvision.models. A CUDA wheel of torchvision cannot load its operators into a CPU build of torch; its import
    then fails unless the two that it looks up by name are declared. The models here call neither."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision
    return torchvision.models
