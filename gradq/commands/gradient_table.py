"""A gradient check's result as a table: one row per parameter, with a verdict."""

from __future__ import annotations

from typing import Any

from gradq.commands.plain_console import PlainConsole
from gradq.commands.tables import plain

HEADER = ["parameter", "shape", "autograd", "finite differences", "verdict"]


def print_check(check: dict[str, Any] | None) -> None:
    """Print one row per parameter: its largest error relative to the gradient's largest entry, and the verdict."""
    if check:
        plain([HEADER, *(_row(name, line, check) for name, line in check["parameters"].items())], PlainConsole())


def _row(name: str, line: dict[str, Any], check: dict[str, Any]) -> list[str]:
    errors = [(line["max_relative_error"], check["tolerance"])]
    if slopes := line.get("finite_differences"):
        errors.append((slopes["max_relative_error"], check["finite_differences"]["tolerance"]))
    shown = [f"{error:.1e}" for error, _ in errors]
    verdict = "pass" if all(error <= tolerance for error, tolerance in errors) else "FAIL"
    return [name, "x".join(map(str, line["shape"])), shown[0], shown[1] if slopes else "-", verdict]
