"""The trained net again, as a torch module, from model.json and model.safetensors. Nothing else here needs torch."""

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
    """Pixels as the net was trained on them: (pixel - mean) / std, a channel each."""

    mean: list[float]
    std: list[float]

    def __call__(self, images: Tensor) -> Tensor:
        """(N,C,H,W) in [0, 1] -> the same shape"""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


def load(folder: str | Path, weights: str = "model.safetensors") -> nn.Module:
    """The net whose files lie in `folder`, on the CPU and in evaluation mode: normalized images in, logits out.

    It carries `normalize` (images in [0, 1] to what it takes), `input_shape` (C,H,W) and `classes`:

        net(net.normalize(images)).argmax(1)      # images (N,C,H,W) in [0, 1]
    """
    folder = Path(folder)
    description = json.loads((folder / "model.json").read_text())
    if description.get("format") != FORMAT:
        raise ValueError(f"model.json has the format {description.get('format')!r}, and {FORMAT!r} is read here")
    net = follow(description["torchvision"]) if description["layers"] is None else in_a_row(description["layers"])
    net.load_state_dict(load_file(folder / weights))
    scale = description["normalization"]
    net.normalize = Normalize(scale["mean"], scale["std"])  # type: ignore[assignment]
    net.input_shape = tuple(description["input_shape"])  # type: ignore[assignment]
    net.classes = list(description["classes"])  # type: ignore[assignment]
    return net.eval()


def in_a_row(layers: list[dict[str, Any]]) -> nn.Sequential:
    """linear, mlp and cnn."""
    return nn.Sequential(*map(_layer, layers))


def follow(recipe: dict[str, Any]) -> nn.Module:
    """One of torchvision's nets, with the layers replaced that did not fit the data."""
    net: nn.Module = _torchvision_models().get_model(recipe["name"], weights=None, **recipe["arguments"])
    for path, layer in recipe["replace"].items():
        net.set_submodule(path, _layer(layer))
    if recipe["enlarge"]:
        net.register_forward_pre_hook(Enlarge(*recipe["enlarge"]))
    return net


@dataclass(frozen=True)
class Enlarge:
    """Brings images to the size that the net was made for."""

    height: int
    width: int

    def __call__(self, net: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return F.interpolate(inputs[0], (self.height, self.width), mode="bilinear")


def _layer(layer: dict[str, Any]) -> nn.Module:
    if layer["type"] not in LAYERS:
        raise ValueError(f"the model has a layer {layer['type']!r}, which is not one of {', '.join(LAYERS)}")
    return LAYERS[layer["type"]](**layer["arguments"])


_declared: list[Any] = []  # a torch.library.Library takes its definitions along when it is collected


def _torchvision_models() -> Any:
    """torchvision.models. Where its wheel is one for CUDA and torch is not, its operators cannot be loaded, and its own
    import fails unless the two that it asks for by name are declared. No net here calls them."""
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
