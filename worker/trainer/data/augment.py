"""Augmentation: each example of each epoch moved, turned, mirrored by chance. Batched, on the device, off the global
random streams.

Every augmentation of the spec is an affine map of the plane, so an example's maps are multiplied into one matrix and
the image is sampled once, whatever their number. torchvision's transforms draw once for a whole batch when they are
given one, from the global generator; here each example has its own draw, and a batch's draws are a pure function of
(seed, epoch, batch), so that a resumed run repeats them.
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
    """Applies a spec's augmentations to batches of normalised images (N,C,H,W)."""

    def __init__(self, steps: Sequence[job_spec.Augmentation], seed: int, black: Tensor) -> None:
        """`black` (1,C,1,1): what a pixel of value 0 becomes by normalisation; it fills what comes into sight."""
        self.steps, self.seed, self.black = steps, seed, black
        bilinear = any(isinstance(step, job_spec.Rotate) for step in steps)  # the others move by whole pixels
        self.mode = "bilinear" if bilinear else "nearest"

    def __call__(self, x: Tensor, epoch: int, batch: int) -> Tensor:
        generator = seeds.generator(self.seed, "augment", epoch, batch)
        n, _, height, width = x.shape
        maps = torch.eye(3).repeat(n, 1, 1)  # (N,3,3)
        for step in self.steps:
            maps = maps @ self._draw(step, n, height, width, generator)
        grid = F.affine_grid(maps[:, :2].to(x.device, x.dtype), list(x.shape), align_corners=False)
        moved = F.grid_sample(x - self.black, grid, mode=self.mode, padding_mode="zeros", align_corners=False)
        return moved + self.black

    def _draw(self, step: job_spec.Augmentation, n: int, height: int, width: int, generator: Generator) -> Tensor:
        """(N,3,3): from a place in the new image to the place in the old one that it shows, both within ±1."""
        match step:
            case job_spec.Shift():
                return _shifts(n, step.pixels, height, width, generator)
            case job_spec.Crop():  # a window somewhere in the padded image is a shift of at most the padding
                return _shifts(n, step.padding, height, width, generator)
            case job_spec.Flip():
                maps = torch.eye(3).repeat(n, 1, 1)
                maps[:, 0, 0] = 1 - 2 * (torch.rand(n, generator=generator) < step.probability).float()
                return maps
            case job_spec.Rotate():
                return _rotations(n, step.degrees, height, width, generator)


def _shifts(n: int, most: int, height: int, width: int, generator: Generator) -> Tensor:
    pixels = torch.randint(-most, most + 1, (n, 2), generator=generator)
    maps = torch.eye(3).repeat(n, 1, 1)
    maps[:, :2, 2] = pixels * (2 / torch.tensor([width, height]))
    return maps


def _rotations(n: int, most: float, height: int, width: int, generator: Generator) -> Tensor:
    angles = (torch.rand(n, generator=generator) * 2 - 1) * math.radians(most)
    cos, sin, aspect = angles.cos(), angles.sin(), height / width
    maps = torch.eye(3).repeat(n, 1, 1)
    # the coordinates run from -1 to 1 along both sides: an image that is not square would be sheared without the aspect
    maps[:, 0, 0], maps[:, 0, 1] = cos, -sin * aspect
    maps[:, 1, 0], maps[:, 1, 1] = sin / aspect, cos
    return maps
