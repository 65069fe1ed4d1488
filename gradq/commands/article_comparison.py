"""Compares a job of a preset with the reference article: the figures that the article printed, and ours."""

from __future__ import annotations

from typing import Any

from gradq.commands.formatting import Job, number
from gradq.commands.plain_console import PlainConsole
from gradq.commands.tables import plain

Series = dict[str, list[list[Any]]]
Figure = tuple[str, float, float | None]  # name, the article's value, ours


def print_article(job: Job, series: Series) -> None:
    """Print each figure of the article next to ours; nothing for a job without a preset."""
    figures = compare(job.get("article") or {}, series, job.get("result") or {})
    if figures:
        rows = [[what, number(theirs), number(ours) or "-"] for what, theirs, ours in figures]
        plain([["figure", "article", "ours"], *rows], PlainConsole())


def compare(article: dict[str, Any], series: Series, result: dict[str, Any]) -> list[Figure]:
    """First and last value of each curve that the article printed, and the figures that are in the job's result.

    Ours is None where a curve has no such point; a figure that the result does not have is left out.
    """
    figures: list[Figure] = []
    for name, theirs in article.items():
        if name.startswith(("first_", "last_")):
            end, _, metric = name.partition("_")
            figures.append(_figure(metric, end, theirs, series))
        elif isinstance(theirs, list):
            figures += [_figure(name, "first", theirs[0], series), _figure(name, "last", theirs[-1], series)]
        elif result.get(name) is not None:
            figures.append((name, theirs, result[name]))
    return list(dict.fromkeys(figures))


def _figure(metric: str, end: str, theirs: float, series: Series) -> Figure:
    points = series.get(metric) or []
    ours = None if not points else points[0][2] if end == "first" else points[-1][2]
    return f"{end} {metric}", theirs, ours
