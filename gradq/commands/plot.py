"""Draws curves as text of braille characters, each of 2 x 4 dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.text import Text

BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of one character
LABEL_WIDTH = 8
DASH = 2  # characters of a dash and of a gap


@dataclass(frozen=True)
class Curve:
    label: str
    style: str
    points: Sequence[tuple[float, float]]  # (x, y), in the order of x
    dashed: bool = False  # another curve shows in the gaps


class Canvas:
    """`width` x `height` characters of dots; where curves cross, the last one drawn sets the colour."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._dots = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def dot(self, x: int, y: int, style: str) -> None:
        """x from the left, y from the bottom, in dots."""
        y = self.height * 4 - 1 - y
        self._dots[y // 4][x // 2] |= DOTS[y % 4][x % 2]
        self._styles[y // 4][x // 2] = style

    def line(self, start: tuple[int, int], end: tuple[int, int], style: str, dashed: bool = False) -> None:
        (x0, y0), (x1, y1) = start, end
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(steps + 1):
            x, y = x0 + round((x1 - x0) * i / steps), y0 + round((y1 - y0) * i / steps)
            if not (dashed and (x // 2 + y // 4) // DASH % 2):
                self.dot(x, y, style)

    def rows(self) -> list[Text]:
        rows = []
        for dots, styles in zip(self._dots, self._styles, strict=True):
            row = Text()
            for bits, style in zip(dots, styles, strict=True):
                row.append(chr(BRAILLE + bits) if bits else " ", style)
            rows.append(row)
        return rows


def plot(curves: Sequence[Curve], width: int, height: int) -> Text:
    """The curves with axes and names, `width` columns by `height` lines. Points that are not finite are left out."""
    curves = [replace(c, points=[p for p in c.points if all(map(math.isfinite, p))]) for c in curves]
    curves = [curve for curve in curves if curve.points]
    inner_width, inner_height = max(10, width - LABEL_WIDTH - 2), max(3, height - 2)
    if not curves:
        return Text("\n" * (inner_height // 2) + "no points yet".center(width) + "\n" * (inner_height // 2), "dim")
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    left, right, low, high = min(xs), max(xs), min(0.0, *ys), max(ys)
    canvas = Canvas(inner_width, inner_height)

    def place(point: tuple[float, float]) -> tuple[int, int]:
        x = (point[0] - left) / (right - left) if right > left else 0.0
        y = (point[1] - low) / (high - low) if high > low else 0.0
        return round(x * (inner_width * 2 - 1)), round(y * (inner_height * 4 - 1))

    for curve in curves:
        placed = [place(point) for point in curve.points]
        for start, end in zip(placed, placed[1:] or placed, strict=False):
            canvas.line(start, end, curve.style, curve.dashed)
    text = Text()
    for i, row in enumerate(canvas.rows()):
        share = 1 - i / (inner_height - 1)
        labelled = i in (0, inner_height // 2, inner_height - 1)
        label = f"{low + (high - low) * share:.3g}" if labelled else ""
        text.append(f"{label:>{LABEL_WIDTH}} ", "dim").append("│", "dim").append_text(row).append("\n")
    ends = f"{left:g}".ljust(inner_width - len(f"step {right:g}")) + f"step {right:g}"
    text.append(" " * (LABEL_WIDTH + 2) + ends + "\n", "dim")
    text.append(" " * (LABEL_WIDTH + 2))
    for curve in curves:
        text.append("━ ", curve.style).append(f"{curve.label} {curve.points[-1][1]:.4g}   ")
    return text
