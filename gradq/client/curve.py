"""A job's curve as a table: one row per step, one column per metric. A DataFrame if pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradq.client.types import Points


def table(series: Mapping[str, Points]) -> dict[str, list[Any]]:
    """`step` and each metric as lists of equal length, in the order of steps; None where a metric has no point."""
    values = {name: {step: value for step, _, value in points} for name, points in series.items()}
    steps = sorted({step for points in values.values() for step in points})
    return {"step": steps} | {name: [points.get(step) for step in steps] for name, points in values.items()}


def frame(series: Mapping[str, Points]) -> Any:
    """The table as a DataFrame of float64 with the index `step`; without pandas, the dict of lists."""
    columns = table(series)
    try:
        import pandas
    except ImportError:
        return columns
    index = pandas.Index(columns.pop("step"), name="step", dtype="int64")
    return pandas.DataFrame(columns, index=index, dtype="float64")
