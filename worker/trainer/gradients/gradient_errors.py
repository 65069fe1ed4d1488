"""Errors of a hand-written gradient, parameter by parameter: the lines of the gradient check's table."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Size, Tensor

SMALLEST_SCALE = 1e-3  # p - 1 of a well-learnt example loses its digits: below this size, errors count absolutely


@dataclass
class Worst:
    """How far one parameter's gradient by hand is from a referee's, and where most: the largest over all batches."""

    referee: str  # autograd or numeric
    absolute: float = 0.0
    relative: float = 0.0
    element: int | None = None  # of the flat parameter
    by_hand: float = math.nan
    expected: float = math.nan

    def see(self, by_hand: Tensor, expected: Tensor, elements: list[int] | None, scale: float) -> None:
        """by_hand, expected (n): the gradients at `elements` of the flat parameter, or at all of them."""
        errors = (by_hand - expected).abs()
        place = int(errors.argmax())  # a NaN counts as the largest
        absolute = finite(errors[place].item())
        relative = finite(absolute / scale)
        self.absolute = max(self.absolute, absolute)
        if self.element is None or relative > self.relative:
            self.relative = relative
            self.element = place if elements is None else elements[place]
            self.by_hand, self.expected = by_hand[place].item(), expected[place].item()

    def to_json(self, shape: Size) -> dict[str, Any]:
        place = None if self.element is None else torch.unravel_index(torch.tensor(self.element), shape)
        return {
            "max_absolute_error": self.absolute,
            "max_relative_error": self.relative,
            "worst_index": None if place is None else [int(i) for i in place],
            "worst_manual": self.by_hand if math.isfinite(self.by_hand) else None,
            f"worst_{self.referee}": self.expected if math.isfinite(self.expected) else None,
        }


@dataclass
class Line:
    """One parameter: its errors against both referees."""

    shape: Size
    autograd: Worst = field(default_factory=lambda: Worst("autograd"))
    numeric: Worst = field(default_factory=lambda: Worst("numeric"))
    checked: int = 0  # elements that a finite difference was taken at
    skipped: int = 0  # elements at a kink, where there is no derivative to compare with

    def against_autograd(self, by_hand: Tensor | None, expected: Tensor) -> None:
        if by_hand is None:
            by_hand = torch.full_like(expected, math.nan)  # forgotten: as wrong as can be
        scale = max(expected.abs().max().item(), SMALLEST_SCALE)
        self.autograd.see(by_hand.flatten(), expected.flatten(), None, scale)

    def against_slopes(self, by_hand: Tensor | None, slopes: dict[int, float], scale: float) -> None:
        if slopes:
            elements, expected = list(slopes), torch.tensor(list(slopes.values()), dtype=torch.float64)
            found = torch.full_like(expected, math.nan) if by_hand is None else by_hand.flatten()[elements].cpu()
            self.numeric.see(found, expected, elements, scale)

    def to_json(self, with_slopes: bool) -> dict[str, Any]:
        line = {"shape": list(self.shape), **self.autograd.to_json(self.shape)}
        if with_slopes:
            numeric = self.numeric.to_json(self.shape)
            line["finite_differences"] = {**numeric, "checked": self.checked, "skipped": self.skipped}
        return line


def finite(error: float) -> float:
    """An error as JSON can say it: what is not finite is as large as a float can be."""
    return error if math.isfinite(error) else sys.float_info.max
