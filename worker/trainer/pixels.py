"""Images as they were before their normalization."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.trainer.data import Normalization


def to_pixels(images: Tensor, normalization: Normalization) -> Tensor:
    """Back from normalised (N,C,H,W), wherever they are, to values in [0, 1] on the CPU."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (normalization.mean, normalization.std))
    return (images.cpu() * std + mean).clamp(0, 1)
