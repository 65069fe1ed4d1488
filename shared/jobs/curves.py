"""A job's curve: points to series, and series to CSV or a picture."""

from __future__ import annotations

import csv
import functools
import io
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from shared.plain_text import escaped

Point = tuple[int, int, float]  # (step, epoch, value)
Series = dict[str, list[Point]]

FACTOR = 5  # points of one level per point of the next
PICTURE_POINTS = 2000  # drawn of each curve: a minimum and a maximum for each column of pixels, of which there are 806

_drawing = threading.Lock()


def to_series(points: Iterable[tuple[int, int, dict[str, float]]]) -> Series:
    """(step, epoch, {name: value}) in order of time -> one list of points per name."""
    series: Series = {}
    for step, epoch, values in points:
        for name, value in values.items():
            series.setdefault(name, []).append((step, epoch, value))
    return series


def thin(points: Sequence[Point], max_points: int) -> list[Point]:
    """Reduce `points` to at most `max_points`: the first, the last, and the minimum and maximum of equal stretches.

    A long curve is first reduced to a level (see `level_of`), which shared/jobs/curve_blocks.py stores, so that both
    choose the same points.
    """
    if len(points) <= max_points:
        return list(points)
    reduced = points
    for _ in range(level_of(len(points), max_points)):
        reduced = next_level(reduced)
    return spread(points[0], reduced, points[-1], max_points)


def level_of(count: int, max_points: int) -> int:
    """The level from which `max_points` of `count` points are chosen: the highest that has so many.

    Level 0 has all points, and each next one a fifth: the minimum and the maximum of each 10 points of the one before.
    """
    level = 0
    while count // FACTOR ** (level + 1) >= max(max_points, 1):
        level += 1
    return level


def next_level(points: Sequence[Point]) -> list[Point]:
    """The minimum and the maximum of each 2 * FACTOR points, in order. Of equal points the first is the minimum and the
    last the maximum, so that only a stretch of one point gives fewer than two."""
    width = 2 * FACTOR
    return [point for start in range(0, len(points), width) for point in extremes(points[start : start + width])]


def spread(first: Point, reduced: Sequence[Point], last: Point, max_points: int) -> list[Point]:
    """`thin` of a curve from `first` to `last` that is reduced to a level with at least `max_points` points."""
    if max_points < 4:
        return [first, last][:max_points]
    start = 1 if reduced[0][0] == first[0] else 0
    end = len(reduced) - (1 if reduced[-1][0] == last[0] else 0)
    count, stretches = end - start, (max_points - 2) // 2
    kept = [first]
    for i in range(stretches):
        kept += extremes(reduced[start + i * count // stretches : start + (i + 1) * count // stretches])
    return [*kept, last]


def extremes(points: Sequence[Point]) -> Sequence[Point]:
    """The minimum and the maximum, in order; a NaN is neither unless there is nothing else."""
    if len(points) <= 2:
        return points
    values = [point[2] for point in points]
    low, high = min(values), max(values)
    if low != low or high != high:  # a NaN that comes first is returned by min and max
        finite = [value for value in values if value == value] or values
        low, high = min(finite), max(finite)
    end = len(points) - 1
    if low != low:
        return [points[0], points[end]]
    lowest, highest = values.index(low), end - values[::-1].index(high)
    if lowest == highest:  # the only one that is not NaN
        highest = end if lowest != end else 0
    return [points[min(lowest, highest)], points[max(lowest, highest)]]


def to_csv(series: Series) -> str:
    """CSV with one line per step: step, epoch, then one column per name, empty if it has no point at that step."""
    names = sorted(series)
    table: dict[tuple[int, int], dict[str, float]] = {}
    for name in names:
        for step, epoch, value in series[name]:
            table.setdefault((step, epoch), {})[name] = value
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "epoch", *names])
    for (step, epoch), values in sorted(table.items()):
        writer.writerow([step, epoch, *("" if name not in values else repr(values[name]) for name in names)])
    return out.getvalue()


def draw(series: Series, title: str, formats: Sequence[str], empty: str = "no points yet") -> list[bytes]:
    """Draw the loss curve (losses on the left axis, accuracy on the right, over steps); one file per format (png, svg).

    Each curve is thinned to `PICTURE_POINTS`. Without any points the picture shows the text `empty`.
    """
    from matplotlib import rc_context

    # one at a time: the figure is reused; and the salt makes the ids inside an SVG, and so its bytes, reproducible
    with _drawing, rc_context({"svg.hashsalt": "gradq"}):
        sheet = _sheet()
        sheet.fill({name: thin(points, PICTURE_POINTS) for name, points in series.items()}, title, empty)
        return [sheet.render(format) for format in formats]


class Sheet:
    """A reusable figure with both axes. Creating the axes and their ticks takes as long as drawing the curves."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(8, 4.5), dpi=120)
        self.figure.subplots_adjust(left=0.08, right=0.92, top=0.92, bottom=0.11)
        self.losses: Any = self.figure.add_subplot()
        self.losses.set(xlabel="step", ylabel="loss")
        self.losses.grid(alpha=0.25)
        self.accuracy: Any = self.losses.twinx()
        self.accuracy.set(ylabel="accuracy")

    def fill(self, series: Series, title: str, empty: str) -> None:
        """Remove the previous picture's curves and plot these."""
        for axes in (self.losses, self.accuracy):
            for mark in (*axes.lines, *axes.texts, *([axes.legend_] if axes.legend_ else [])):
                mark.remove()
            axes.relim()
            axes.set(xlim=(0, 1), ylim=(0, 1))
            axes.set_autoscale_on(True)  # takes effect with the first point
        for name, label, style in LOSSES:
            _plot(self.losses, series.get(name), label, style)
        _plot(self.accuracy, series.get("val_accuracy"), "validation accuracy", ACCURACY)
        self.accuracy.set(visible="val_accuracy" in series, ylim=(0, 1.02))
        # XML cannot hold every character; an unescaped $ starts math text; a fixed y saves matplotlib a layout pass
        self.losses.set_title(escaped(title).replace("$", r"\$"), y=1.0)
        lines = [*self.losses.lines, *self.accuracy.lines]
        if lines:
            labels = [line.get_label() for line in lines]
            self.losses.legend(lines, labels, loc="center right", framealpha=0.85, edgecolor="none")
        else:
            self.losses.text(0.5, 0.5, empty, transform=self.losses.transAxes, ha="center", color="grey")

    def render(self, format: str) -> bytes:
        out = io.BytesIO()
        self.figure.savefig(out, format=format, **SAVE_OPTIONS[format])
        return out.getvalue()


@functools.cache
def _sheet() -> Sheet:
    return Sheet()


def _plot(axes: Any, points: Sequence[Point] | None, label: str, style: dict[str, Any]) -> None:
    if points:
        axes.plot([p[0] for p in points], [p[2] for p in points], label=label, **style)


LOSSES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("batch_loss", "batch loss", {"color": "#b9c6d8", "linewidth": 1}),
    ("train_loss", "training loss", {"color": "#1f5fa8", "marker": "o", "markersize": 3}),
    ("val_loss", "validation loss", {"color": "#d1572b", "marker": "o", "markersize": 3}),
)
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"pil_kwargs": {"compress_level": 1}},  # of 9: half the time for a quarter more bytes
    "svg": {"metadata": {"Date": None}},
}
ACCURACY: dict[str, Any] = {"color": "#2a9d5c", "marker": "o", "markersize": 3, "linestyle": "--"}
