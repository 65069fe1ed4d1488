"""How templates write numbers and times. js/format.js writes them in the same way: change both together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

UNITS = ("B", "kB", "MB", "GB", "TB")
CODE = re.compile(r"`([^`]+)`")
STEPS = (("s", 60), ("min", 60), ("h", 24), ("d", math.inf))


def number(value: float | None, digits: int = 4) -> str:
    """1234567 -> 1 234 567 (thin spaces); 0.0123456 -> 0.01235; None, infinity or NaN -> –"""
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u2009")
    return f"{value:.{digits}g}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.9731 -> 97.3 %"""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}\u202f%"


def size(value: float | None) -> str:
    """1234567 -> 1.2 MB"""
    if value is None:
        return "–"
    for unit in UNITS:
        if abs(value) < 1000 or unit == UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f}\u202f{unit}" if unit == "B" or value >= 100 else f"{value:.1f}\u202f{unit}"


def duration(seconds: float | None) -> str:
    """The two largest units: 0.42 s, 7 s, 3 min 5 s, 2 h 7 min, 5 d 3 h"""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{max(seconds, 0):.2g}\u202fs"
    left, parts = math.floor(seconds + 0.5), []
    for unit, of_next in STEPS:
        parts.append((int(left % of_next), unit))
        left = int(left // of_next)
    parts = [(count, unit) for count, unit in reversed(parts)]
    first = next(place for place, (count, _) in enumerate(parts) if count)
    shown = [f"{count}\u202f{unit}" for count, unit in parts[first : first + 2] if count]
    return " ".join(shown)


def ago(at: datetime, now: datetime | None = None) -> str:
    """The largest unit alone: now, 7 s, 3 min, 2 h, 5 d"""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    return "now" if seconds < 1 else duration(math.floor(seconds)).split(" ")[0]


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ordinal(place: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st"""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{number(place)}{ending}"


def with_code(text: str) -> Markup:
    """A message as HTML: a word between backticks is code. js/dialog.js does the same."""
    parts = (
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(CODE.split(text))
    )
    return Markup("").join(parts)


FILTERS: tuple[Callable[..., Any], ...] = (number, percent, size, duration, ago, iso, ordinal, with_code)
