"""The table of a gradient check as JSON: `gradient_check.json`, and `gradient_check` in a job's result."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ErrorFigures(TypedDict):
    """The largest errors of one parameter's manual gradient, over all batches."""

    max_absolute_error: float
    max_relative_error: float
    worst_index: list[int] | None  # of the element with the largest relative error; None if none was compared
    worst_manual: float | None  # the manual gradient there; None if it is not finite


class AutogradErrors(ErrorFigures):
    worst_autograd: float | None


class NumericErrors(ErrorFigures):
    worst_numeric: float | None
    checked: int  # elements compared with a finite difference
    skipped: int  # elements at a kink


class Row(AutogradErrors):
    """One parameter."""

    shape: list[int]
    finite_differences: NotRequired[NumericErrors]


class FiniteDifferences(TypedDict):
    """All parameters against finite differences."""

    tolerance: float
    max_relative_error: float
    max_absolute_error: float
    checked: int
    skipped: int


class Table(TypedDict):
    passed: bool
    dtype: str
    tolerance: float
    max_relative_error: float
    max_absolute_error: float
    loss_difference: float  # the largest over the batches
    batch_size: int  # of the largest batch
    batches: int
    parameters: dict[str, Row]  # by name
    finite_differences: NotRequired[FiniteDifferences]
