"""Augmentation: shifts, crops, flips and rotations drawn anew for each example of each epoch; batched, on the device.

Every augmentation of the spec is an affine map of the plane, so an example's maps are multiplied into one matrix and
the image is sampled once (affine grid and grid sampling as in Jaderberg et al. 2015, Spatial Transformer Networks).
torchvision's transforms draw once per batch, from the global generator; here each example has its own draw, and the
draws of a batch are a pure function of (seed, epoch, batch), so that a resumed run repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from shared.spec import job_spec
from worker.trainer import seeds


class Augmenter:
    """Applies a spec's augmentations, in order, to batches of normalized images."""

    def __init__(
        self, steps: Sequence[job_spec.Augmentation], seed: int, black: Tensor, streams: int = seeds.STREAMS
    ) -> None:
        """`black` (1,C,1,1): a pixel of value 0 after normalization, which fills the area beyond the image's edges."""
        self.steps, self.seed, self.black, self.streams = steps, seed, black, streams
        # shift, crop and flip move by whole pixels
        bilinear = any(isinstance(step, job_spec.Rotate) for step in steps)
        self.mode = "bilinear" if bilinear else "nearest"

    def __call__(self, x: Tensor, epoch: int, batch: int) -> Tensor:
        """x (N,C,H,W) -> a new tensor of the same shape, dtype and device."""
        generator = seeds.generator(self.seed, "augment", epoch, batch, streams=self.streams)
        n, _, height, width = x.shape
        maps = torch.eye(3).repeat(n, 1, 1)  # (N,3,3)
        for step in self.steps:
            maps = maps @ self._draw(step, n, height, width, generator)
        grid = F.affine_grid(maps[:, :2].to(x.device, x.dtype), list(x.shape), align_corners=False)
        moved = F.grid_sample(x - self.black, grid, mode=self.mode, padding_mode="zeros", align_corners=False)
        return moved + self.black

    def _draw(self, step: job_spec.Augmentation, n: int, height: int, width: int, generator: Generator) -> Tensor:
        """(N,3,3): affine maps from coordinates in the new image to those in the old one, both from -1 to 1."""
        match step:
            case job_spec.Shift():
                return _shifts(n, step.pixels, height, width, generator)
            case job_spec.Crop():  # a random window of the padded image is a shift by at most the padding
                return _shifts(n, step.padding, height, width, generator)
            case job_spec.Flip():
                maps = torch.eye(3).repeat(n, 1, 1)
                maps[:, 0, 0] = 1 - 2 * (torch.rand(n, generator=generator) < step.probability).float()
                return maps
            case job_spec.Rotate():
                return _rotations(n, step.degrees, height, width, generator)


def _shifts(n: int, most: int, height: int, width: int, generator: Generator) -> Tensor:
    """(N,3,3): shifts by whole pixels, uniform from -most to most along each axis."""
    pixels = torch.randint(-most, most + 1, (n, 2), generator=generator)
    maps = torch.eye(3).repeat(n, 1, 1)
    maps[:, :2, 2] = pixels * (2 / torch.tensor([width, height]))
    return maps


def _rotations(n: int, most: float, height: int, width: int, generator: Generator) -> Tensor:
    """(N,3,3): rotations about the centre, uniform from -most to most degrees."""
    angles = (torch.rand(n, generator=generator) * 2 - 1) * math.radians(most)
    cos, sin, aspect = angles.cos(), angles.sin(), height / width
    maps = torch.eye(3).repeat(n, 1, 1)
    # coordinates run from -1 to 1 along both axes: without the aspect ratio, an image that is not square is sheared
    maps[:, 0, 0], maps[:, 0, 1] = cos, -sin * aspect
    maps[:, 1, 0], maps[:, 1, 1] = sin / aspect, cos
    return maps
