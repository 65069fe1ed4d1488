"""Errors of a manual gradient, parameter by parameter: the rows of the gradient check's table."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Size, Tensor

from worker.trainer.gradients.table import ErrorFigures, Row

# Of a gradient. Below this size errors count absolutely: p - 1 of an example learnt well has few correct digits left.
SMALLEST_SCALE = 1e-3


@dataclass
class LargestError:
    """The largest errors of one parameter's manual gradient against a reference over all batches, and where."""

    absolute: float = 0.0
    relative: float = 0.0
    element: int | None = None  # of the flat parameter, where the relative error is largest
    manual: float = math.nan  # the gradients there
    expected: float = math.nan

    def update(self, manual: Tensor, expected: Tensor, elements: list[int] | None, scale: float) -> None:
        """Compare the gradients manual (n) and expected (n) at `elements` of the flat parameter, or at all of them.

        The relative error is the largest absolute one divided by `scale`. Errors that are not finite become the largest
        float.
        """
        errors = (manual - expected).abs()
        worst = int(errors.argmax())  # a NaN counts as the largest
        absolute = finite(errors[worst].item())
        relative = finite(absolute / scale)
        self.absolute = max(self.absolute, absolute)
        if self.element is None or relative > self.relative:
            self.relative = relative
            self.element = worst if elements is None else elements[worst]
            self.manual, self.expected = manual[worst].item(), expected[worst].item()

    def to_json(self, shape: Size) -> ErrorFigures:
        index = None if self.element is None else np.unravel_index(self.element, shape)
        return {
            "max_absolute_error": self.absolute,
            "max_relative_error": self.relative,
            "worst_index": None if index is None else [int(i) for i in index],
            "worst_manual": _finite_or_none(self.manual),
        }


@dataclass
class ParameterErrors:
    """The errors of one parameter's manual gradient against autograd and against finite differences."""

    shape: Size
    autograd: LargestError = field(default_factory=LargestError)
    numeric: LargestError = field(default_factory=LargestError)
    checked: int = 0  # elements compared with a finite difference
    skipped: int = 0  # elements at a kink, which have no derivative to compare with

    def compare_with_autograd(self, manual: Tensor | None, expected: Tensor) -> None:
        """manual, expected: gradients of the parameter's shape; a manual gradient of None counts as NaN everywhere."""
        if manual is None:
            manual = torch.full_like(expected, math.nan)
        scale = max(expected.abs().max().item(), SMALLEST_SCALE)
        self.autograd.update(manual.flatten(), expected.flatten(), None, scale)

    def compare_with_slopes(self, manual: Tensor | None, slopes: dict[int, float], scale: float) -> None:
        """`slopes`: finite differences by element of the flat parameter. `scale` divides the relative error."""
        if slopes:
            elements, expected = list(slopes), torch.tensor(list(slopes.values()), dtype=torch.float64)
            found = torch.full_like(expected, math.nan) if manual is None else manual.flatten()[elements].cpu()
            self.numeric.update(found, expected, elements, scale)

    def to_json(self, with_slopes: bool) -> Row:
        row: Row = {
            "shape": list(self.shape),
            **self.autograd.to_json(self.shape),
            "worst_autograd": _finite_or_none(self.autograd.expected),
        }
        if with_slopes:
            row["finite_differences"] = {
                **self.numeric.to_json(self.shape),
                "worst_numeric": _finite_or_none(self.numeric.expected),
                "checked": self.checked,
                "skipped": self.skipped,
            }
        return row


def finite(error: float) -> float:
    """The error, or the largest float if it is infinite or NaN, which JSON cannot represent."""
    return error if math.isfinite(error) else sys.float_info.max


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
