"""Draws curves of several jobs into one image. The first is wide and pale, the others are thin and dashed on top of it,
so that both of two equal curves are visible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradq.commands.comparison import Curves
from gradq.commands.plain_text import escaped_lines

FORMATS = (".png", ".svg", ".pdf")
COLOURS = {"batch_loss": "#7a8aa0", "train_loss": "#1f5fa8", "val_loss": "#d1572b", "val_accuracy": "#2a9d5c"}
OTHER_COLOUR = "#6b4fa0"
LABELS = {"batch_loss": "batch loss", "train_loss": "training loss", "val_loss": "validation loss"}
STYLES: tuple[dict[str, Any], ...] = (
    {"linewidth": 7, "alpha": 0.3, "solid_capstyle": "round"},
    {"linewidth": 1.8, "linestyle": (0, (4, 2))},
    {"linewidth": 1.8, "linestyle": (0, (1, 1.5))},
    {"linewidth": 1.8, "linestyle": (0, (6, 2, 1, 2))},
)


def draw(
    path: Path, names: Sequence[str], curves: Sequence[Curves], metrics: Sequence[str], title: Sequence[str]
) -> None:
    """Write the metrics of all jobs over steps to `path`, in the format of its suffix. Raises OSError."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=160, facecolor="white", layout="constrained")
    axes: Any = figure.add_subplot()
    for i, (name, series) in enumerate(zip(names, curves, strict=True)):
        for metric in metrics:
            points = [point for point in series.get(metric, []) if point[2] is not None]
            if not points:  # nothing in the legend either
                continue
            style = {"color": COLOURS.get(metric, OTHER_COLOUR), **STYLES[min(i, len(STYLES) - 1)]}
            label = _plain(f"{LABELS.get(metric, metric)}, {name}")
            axes.plot([point[0] for point in points], [point[2] for point in points], label=label, **style)
    axes.set_xlabel("step")
    axes.set_ylabel("loss" if all("loss" in metric for metric in metrics) else "value")
    axes.set_title(_plain("\n".join(title)), loc="left", fontsize=10, linespacing=1.5)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, handlelength=3.5)
    with rc_context({"svg.hashsalt": "gradq"}):  # equal curves give equal bytes
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _plain(text: str) -> str:
    """The text as matplotlib draws it literally: a bare $ would start math mode, and XML cannot hold all characters."""
    return escaped_lines(text).replace("$", r"\$")
