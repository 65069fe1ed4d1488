"""Normalization of images: the mean and standard deviation per channel, how they are applied and undone."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

CHUNK_VALUES = 1 << 24  # measured at a time


class Measurable(Protocol):
    """Images (N,C,H,W), as a tensor or as a memory map of a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> Tensor: ...
    def split(self, split_size: int, /) -> Iterable[Tensor]: ...


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel of the training split, for pixels / `white`, which are in [0, 1]. The
    deviation of a channel that has one value is 1, as in scikit-learn's StandardScaler."""

    mean: list[float]
    std: list[float]
    white: float

    def apply(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Pixels (N,C,H,W) from 0 to `white` -> float32 of mean 0 and standard deviation 1 on the training split.

        `out`: a tensor for the result, which is else a new one. The bits of an image do not depend on the others.
        """
        mean, std = self._in_pixels
        result = images.to(torch.float32, copy=True) if out is None else out.copy_(images)
        return result.sub_(mean).div_(std)

    def __getstate__(self) -> dict[str, Any]:
        """Without the tensors, which would need shared memory on their way to a loader's worker."""
        return {name: value for name, value in vars(self).items() if name != "_in_pixels"}

    @functools.cached_property
    def _in_pixels(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of pixels from 0 to `white`, (1,C,1,1) each."""
        mean, std = (torch.tensor(values).mul_(self.white).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return mean, std


def measure(images: Measurable, white: float) -> Normalization:
    """Mean and standard deviation of each channel over all pixels, in float64, one chunk at a time.

    The variance is that of the population (divided by n); it takes two passes over float images, one over uint8. A
    channel with one value has the deviation 1: a small number instead would make one grey level in a later image
    millions of deviations.
    """
    _, channels, height, width = images.shape
    n = len(images) * height * width  # pixels per channel
    step = max(1, CHUNK_VALUES // (channels * height * width))

    def chunks() -> Iterator[Tensor]:
        return (chunk.transpose(0, 1).flatten(1) for chunk in images.split(step))  # (C, pixels)

    if images[:1].dtype == torch.uint8:
        # 256 possible values: exact sums from their counts, without a float copy of the data
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        for chunk in chunks():
            counts += torch.stack([torch.bincount(c, minlength=256) for c in chunk])
        values = torch.arange(256, dtype=torch.float64) / white
        mean = (counts.double() @ values) / n
        variance = (counts.double() @ values.square()) / n - mean.square()
        constant = (counts > 0).sum(1) == 1
    else:
        total, squares = torch.zeros(2, channels, dtype=torch.float64)
        lowest, highest = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
        for chunk in chunks():
            total += (chunk.double() / white).sum(1)
            lowest, highest = torch.minimum(lowest, chunk.amin(1)), torch.maximum(highest, chunk.amax(1))
        mean = total / n
        for chunk in chunks():
            squares += (chunk.double() / white).sub_(mean.unsqueeze(1)).square_().sum(1)
        variance = squares / n
        constant = lowest == highest
    std = variance.clamp_min(0).sqrt().masked_fill(constant, 1)
    std = torch.where(std > 0, std, 1)  # numbers so close that their variance is not a number above 0
    return Normalization(mean.tolist(), std.tolist(), white)


def to_pixels(images: Tensor, normalization: Normalization) -> Tensor:
    """Undo the normalization: images (N,C,H,W) on any device -> values in [0, 1] on the CPU."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (normalization.mean, normalization.std))
    return (images.cpu() * std + mean).clamp(0, 1)
