"""The content of `walk.json`, which the page Learn reads."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Numbers(TypedDict):
    """A tensor: four figures over all of its values, and its first rows and columns."""

    shape: list[int]
    min: float
    max: float
    mean: float
    std: float  # of the population
    corner: Any  # at most 10 values along each axis, as nested lists; one number for a scalar


class Tiles(TypedDict):
    """Rows of a tensor over pixels as images: PNG in base64."""

    tiles: NotRequired[list[str]]


class Input(Numbers):
    """The normalized images, flattened."""

    axes: tuple[str, ...]
    formula: str


class Weight(Numbers, Tiles):
    name: str
    axes: tuple[str, ...]


class Stage(Tiles):
    """A tensor of the forward or backward pass, computed in two ways."""

    name: str
    formula: str
    axes: tuple[str, ...]
    shape: list[int]
    manual: Numbers
    autograd: Numbers
    max_absolute_difference: float
    max_relative_difference: float


class Scale(TypedDict):
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: list[float]
    std: list[float]


class Batch(TypedDict):
    size: int
    image_shape: list[int]
    normalization: Scale
    classes: list[str]
    labels: list[int]
    predicted: list[int]
    images: list[str]  # PNG in base64


class Walk(TypedDict):
    object: str
    spec: dict[str, Any]
    dtype: str
    tolerance: float
    agrees: bool
    max_relative_difference: float
    loss: float
    batch: Batch
    x: Input
    weights: list[Weight]
    stages: list[Stage]
