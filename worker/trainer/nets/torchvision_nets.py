"""torchvision's models, untrained, adapted to a dataset's channels, classes and image size. For autograd only.

A model is built from its recipe, plain JSON values; torch and torchvision are enough to follow it:

    net = torchvision.models.get_model(recipe["name"], weights=None, **recipe["arguments"])
    for path, layer in recipe["replace"].items():
        net.set_submodule(path, getattr(torch.nn, layer["type"])(**layer["arguments"]))
    # recipe["enlarge"]: null, or the size to which images are resized: F.interpolate(x, size, mode="bilinear")

The names in the state dict are torchvision's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from worker.trainer.nets.import_torchvision import import_torchvision

SMALL = 64  # pixels. These models are made for 224 and halve an image five times: 2 are left
PATCH = 16  # pixels, the patch size of vit_b_16

Recipe: TypeAlias = dict[str, Any]

# The first convolution by family: its path, and its arguments without `in_channels`.
FIRST: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("conv1", {"out_channels": 64, "kernel_size": 7, "stride": 2, "padding": 3, "bias": False}),
    "mobilenet": ("features.0.0", {"out_channels": 16, "kernel_size": 3, "stride": 2, "padding": 1, "bias": False}),
    "efficientnet": ("features.0.0", {"out_channels": 32, "kernel_size": 3, "stride": 2, "padding": 1, "bias": False}),
    "convnext": ("features.0.0", {"out_channels": 96, "kernel_size": 4, "stride": 4, "padding": 0, "bias": True}),
    "vit": ("conv_proj", {"out_channels": 768, "kernel_size": 16, "stride": 16, "padding": 0, "bias": True}),
}


def family(name: str) -> str:
    """`resnet18` -> `resnet`, `vit_b_16` -> `vit`: a key of FIRST."""
    return name.split("_")[0].rstrip("0123456789")


def recipe(name: str, input_shape: tuple[int, int, int], n_classes: int) -> Recipe:
    """How a model is adapted to images of (channels, height, width): `name`, `arguments`, `replace`, `enlarge`."""
    channels, height, width = input_shape
    path, geometry = FIRST[family(name)]
    arguments: dict[str, Any] = {"num_classes": n_classes}
    replace: dict[str, Any] = {}
    size = (max(height, SMALL), max(width, SMALL))
    if family(name) == "resnet":
        size = (height, width)
        if max(size) <= SMALL:  # as usual for CIFAR (He et al. 2016): without the first two halvings
            geometry = geometry | {"kernel_size": 3, "stride": 1, "padding": 1}
            replace["maxpool"] = {"type": "Identity", "arguments": {}}
    elif family(name) == "vit":
        side = -(-max(size) // PATCH) * PATCH
        size, arguments["image_size"] = (side, side), side
    if channels != 3 or replace:
        replace[path] = {"type": "Conv2d", "arguments": {"in_channels": channels, **geometry}}
    enlarge = list(size) if size != (height, width) else None
    return {"name": name, "arguments": arguments, "replace": replace, "enlarge": enlarge}


def build(name: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """The model with torchvision's own init, drawn from the global generator."""
    return follow(recipe(name, input_shape, n_classes))


def follow(recipe: Recipe) -> nn.Module:
    """The model that a recipe describes, with fresh weights from the global generator."""
    net: nn.Module = import_torchvision().models.get_model(recipe["name"], weights=None, **recipe["arguments"])
    for path, layer in recipe["replace"].items():
        new = getattr(nn, layer["type"])(**layer["arguments"])
        if isinstance(new, nn.Conv2d):
            _initialize_first(new, family(recipe["name"]))
        net.set_submodule(path, new)
    for path, module in list(net.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d):  # the output is 1x1; its backward on CUDA is not deterministic
            net.set_submodule(path, MeanOfImage())
    if recipe["enlarge"]:
        height, width = recipe["enlarge"]
        net.register_forward_pre_hook(
            Enlarge(height, width)
        )  # a hook, not a layer, which would change torchvision's names
    net.recipe = recipe  # type: ignore[assignment]  # model.json stores it
    return net


def initialize(net: nn.Module, generator: Generator) -> None:
    """Fill every parameter and buffer as torchvision does, with the numbers that `generator` would give."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())  # torchvision draws from the global generator only
        fresh = follow(cast(Recipe, net.recipe))
    net.load_state_dict(fresh.state_dict())


def _initialize_first(layer: nn.Conv2d, family: str) -> None:
    """Initialize a replaced first convolution as torchvision initializes its own."""
    if family == "convnext":
        nn.init.trunc_normal_(layer.weight, std=0.02)
    elif family == "vit":
        nn.init.trunc_normal_(layer.weight, std=math.sqrt(1 / layer.weight[0].numel()))
    else:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class MeanOfImage(nn.Module):
    """nn.AdaptiveAvgPool2d(1) with a deterministic backward on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,1,1)"""
        return x.mean((2, 3), keepdim=True)


@dataclass(frozen=True)
class Enlarge:
    """A forward pre-hook that resizes images (N,C,H,W) to the size that the model needs. They need no gradient."""

    height: int
    width: int

    def __call__(self, net: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return F.interpolate(inputs[0], (self.height, self.width), mode="bilinear")
