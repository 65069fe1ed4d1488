"""A dataset before normalization."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """images (N,C,H,W) uint8 or float, from 0 to `white`, perhaps maps of files; labels (N) int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    white: float
