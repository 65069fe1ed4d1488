"""Compares a run with the one that it repeats: results and curves in, the first difference out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from worker.trainer.data.split_methods import RANDOM, STRATIFIED

Point = tuple[str, int, dict[str, float]]  # (series, step, {metric: value})

MEASURED = frozenset({"examples_per_second"})  # depends on time, not on the seed
SERIES_ORDER = ("batch", "epoch", "final")  # the order within one step


def compare(
    of: str, expected: dict[str, Any], curve: Iterable[Point], again: dict[str, Any], curve_again: Iterable[Point]
) -> dict[str, Any]:
    """The `reproduction` field of a result: identical or not, the first difference, differences of the environments.

    `expected` and `curve` are the original's. Both runs succeeded, so both results have hashes and an environment.
    """
    before, now = _values(curve), _values(curve_again)
    first = _first_difference(before, now) or _other_hash(expected, again, last_step=max(before)[0] if before else 0)
    return {
        "of": of,
        "identical": first is None,
        "first_difference": first,
        "environment_differences": _environment_differences(expected, again),
    }


def without_original(of: str) -> dict[str, Any]:
    """The `reproduction` field when the original job has been deleted."""
    return {
        "of": of,
        "identical": None,
        "first_difference": None,
        "environment_differences": {},
        "detail": f"{of} has been deleted: there is nothing to compare with",
    }


def _values(curve: Iterable[Point]) -> dict[tuple[int, int, str], float]:
    """(step, index of the series, metric) -> value."""
    return {
        (step, SERIES_ORDER.index(series), name): value
        for series, step, metrics in curve
        for name, value in metrics.items()
        if name not in MEASURED
    }


def _first_difference(
    expected: dict[tuple[int, int, str], float], found: dict[tuple[int, int, str], float]
) -> dict[str, Any] | None:
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            step, _, name = key
            return {"step": step, "metric": name, "expected": expected.get(key), "found": found.get(key)}
    return None


def _other_hash(expected: dict[str, Any], again: dict[str, Any], last_step: int) -> dict[str, Any] | None:
    """For equal curves: hashes of the data's order and of the weights, both known at the last step only."""
    for name in ("data_order_sha256", "weights_sha256"):
        if expected.get(name) != again.get(name):
            return {"step": last_step, "metric": name, "expected": expected.get(name), "found": again.get(name)}
    return None


def _environment_differences(expected: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    before, now = (
        {
            **result.get("environment", {}),
            "device": result.get("device"),
            "validation_split": result.get("validation_split"),
        }
        for result in (expected, again)
    )
    if before["validation_split"] is None:  # of a version whose results do not say so: with this spec it was random
        before["validation_split"] = RANDOM if now["validation_split"] == STRATIFIED else now["validation_split"]
    return {
        name: {"expected": before.get(name), "found": now.get(name)}
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }
