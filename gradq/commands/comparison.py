"""Compares jobs: the differences of their specs, their results, and the distances of their curves. Does no input or
output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradq.commands.formatting import Job

LOSSES = ("batch_loss", "train_loss", "val_loss")
METRICS = (*LOSSES, "val_accuracy", "test_loss", "test_accuracy", "lr")
RESULTS = (
    *("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy"),
    *("training_seconds", "duration_seconds", "examples_per_second", "device", "parameters"),
    *("weights_sha256", "data_order_sha256"),
)

Points = Sequence[Sequence[Any]]  # [[step, epoch, value], …]; a loss that was not finite is None
Curves = Mapping[str, Points]


@dataclass(frozen=True)
class Row:
    """The value of one field in each job; None where a job has none."""

    name: str
    values: list[Any]

    @property
    def equal(self) -> bool:
        return all(value == self.values[0] for value in self.values)


@dataclass(frozen=True)
class Distance:
    """The largest absolute difference between two curves, over the steps that both have."""

    metric: str
    largest: float
    step: int
    points: int


def spec_differences(jobs: Sequence[Job]) -> list[Row]:
    """The fields of the specs that differ between jobs; those of objects with dots: `optimizer.momentum`."""
    specs = [dict(_leaves(job["spec"])) for job in jobs]
    names = dict.fromkeys(name for spec in specs for name in spec)
    rows = [Row(name, [spec.get(name) for spec in specs]) for name in names]
    return [row for row in rows if not row.equal]


def results(jobs: Sequence[Job]) -> list[Row]:
    """Status and results of each job, without fields that no job has."""
    found = [job.get("result") or {} for job in jobs]
    rows = [Row("status", [job["status"] for job in jobs])]
    rows += [Row(name, [result.get(name) for result in found]) for name in RESULTS]
    return [row for row in rows if any(value is not None for value in row.values)]


def distances(curves: Sequence[Curves]) -> list[Distance]:
    """For each metric, the largest distance of any job's curve from the first job's."""
    found = []
    for metric in METRICS:
        far = [distance for other in curves[1:] if (distance := between(metric, curves[0], other)) is not None]
        if far:
            found.append(max(far, key=lambda distance: distance.largest))
    return found


def between(metric: str, one: Curves, other: Curves) -> Distance | None:
    """The distance of two curves; None where they have no step in common."""
    there = {point[0]: point[2] for point in other.get(metric, [])}
    pairs = [(point[0], point[2], there.get(point[0])) for point in one.get(metric, [])]
    apart = [(abs(a - b), step) for step, a, b in pairs if a is not None and b is not None]
    if not apart:
        return None
    largest, step = max(apart, key=lambda found: found[0])
    return Distance(metric, largest, step, len(apart))


def largest_difference(one: Curves, other: Curves) -> float | None:
    """The largest difference over all loss curves of two runs; None where they have no step in common."""
    found = [distance for metric in LOSSES if (distance := between(metric, one, other)) is not None]
    return max((distance.largest for distance in found), default=None)


def same_weights(jobs: Sequence[Job]) -> bool | None:
    """Whether all final weights are bit-identical; None where a job has no weights."""
    hashes = [(job.get("result") or {}).get("weights_sha256") for job in jobs]
    return None if None in hashes else len(set(hashes)) == 1


def to_json(jobs: Sequence[Job], curves: Sequence[Curves]) -> dict[str, Any]:
    return {
        "object": "comparison",
        "jobs": [job["id"] for job in jobs],
        "spec_differences": [{"field": row.name, "values": row.values} for row in spec_differences(jobs)],
        "results": [{"field": row.name, "values": row.values, "equal": row.equal} for row in results(jobs)],
        "curves": [
            {"metric": d.metric, "largest_difference": d.largest, "step": d.step, "points": d.points}
            for d in distances(curves)
        ],
        "same_weights": same_weights(jobs),
    }


def _leaves(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in value.items():
        if isinstance(part, Mapping) and part:
            yield from _leaves(part, f"{before}{name}.")
        else:
            yield f"{before}{name}", json.dumps(part) if isinstance(part, list) else part
