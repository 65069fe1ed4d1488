"""Which class is taken for which: counts over a split, and what follows from them for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def count(true: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """(K,K) int64: how many images of the row's class were taken for the column's."""
    return torch.bincount(true * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)


def figures(matrix: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Precision: the share of a column that is right. Recall: that of a row. F1: their harmonic mean. 0 where a class
    was never predicted or never there, as scikit-learn's `zero_division=0`."""
    right, support, predicted = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    return {
        "classes": list(classes),
        "rows": "true",
        "columns": "predicted",
        "matrix": matrix.tolist(),
        "precision": (right / predicted.clamp_min(1)).tolist(),
        "recall": (right / support.clamp_min(1)).tolist(),
        "f1": (2 * right / (predicted + support).clamp_min(1)).tolist(),
        "support": support.tolist(),
    }
