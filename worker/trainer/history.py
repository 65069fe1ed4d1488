"""The curve of a run so far: reported as it grows, saved in checkpoints, drawn by the exports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from shared import events
from shared.jobs import curves


class History:
    """The points of each series in order, stored as columns: plain lists, which are fast to save and load."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, list[Any]]] = {name: {} for name in get_args(events.Series)}

    def add(self, point: events.Metric) -> None:
        row = {"step": point.step, "epoch": point.epoch, **point.values}
        for name, value in row.items():
            self._columns[point.series].setdefault(name, []).append(value)

    def since(self, step: int) -> Iterator[events.Metric]:
        """The points of all series from `step` on, in the order of their steps."""
        for point in sorted(self._points(), key=lambda p: p.step):
            if point.step >= step:
                yield point

    def series(self) -> curves.Series:
        """For each name of a value, its (step, epoch, value) points."""
        return curves.to_series((p.step, p.epoch, p.values) for p in self._points())

    def column(self, series: events.Series, name: str) -> list[float]:
        """The values of one name in one series, in order; empty if there are none yet."""
        return self._columns[series].get(name, [])

    def state_dict(self) -> dict[str, Any]:
        return self._columns

    def load_state_dict(self, columns: dict[str, Any]) -> None:
        self._columns = columns

    def _points(self) -> Iterator[events.Metric]:
        for series in get_args(events.Series):
            columns = self._columns[series]
            names = [name for name in columns if name not in ("step", "epoch")]
            for i, (step, epoch) in enumerate(zip(columns.get("step", []), columns.get("epoch", []), strict=True)):
                values = {name: columns[name][i] for name in names}
                yield events.Metric(series=series, step=step, epoch=epoch, values=values)
