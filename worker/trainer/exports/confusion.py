"""The confusion matrix of a split, and precision, recall and F1 of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def count_confusions(true: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """True and predicted labels (N) -> (K,K) int64: images of the row's class predicted as the column's class."""
    return torch.bincount(true * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)


def scores(matrix: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """`confusion_matrix.json`: the matrix (K,K), and lists of K scores and supports.

    Precision is the correct share of a column, recall that of a row, F1 their harmonic mean; 0 if a class was never
    predicted or does not occur, as scikit-learn's `zero_division=0`.
    """
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
