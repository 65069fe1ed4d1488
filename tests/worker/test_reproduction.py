"""Comparing two runs: metrics that measure time are ignored; the first difference in any other metric is named."""

from __future__ import annotations

from typing import Any

import pytest

from worker.reproduction import Point, compare, without_original

RESULT: dict[str, Any] = {
    "weights_sha256": "w",
    "data_order_sha256": "d",
    "device": "cpu",
    "environment": {"torch": "2.13", "threads": 1},
}
CURVE: list[Point] = [
    ("batch", 50, {"batch_loss": 2.0}),
    ("epoch", 50, {"train_loss": 2.5, "val_loss": 2.25, "examples_per_second": 100.0}),
    ("batch", 100, {"batch_loss": 1.0}),
    ("final", 100, {"test_loss": 0.5, "test_accuracy": 0.75}),
]


def changed(i: int, **values: float) -> list[Point]:
    series, step, metrics = CURVE[i]
    return [*CURVE[:i], (series, step, {**metrics, **values}), *CURVE[i + 1 :]]


def first(curve: list[Point], result: dict[str, Any] = RESULT) -> Any:
    found = compare("job_0", RESULT, CURVE, result, curve)
    assert found["identical"] is (found["first_difference"] is None)
    return found["first_difference"]


def test_speed_and_the_order_of_points_do_not_count() -> None:
    assert first(CURVE) is None
    assert first(changed(1, examples_per_second=7.0)) is None
    assert first(CURVE[::-1]) is None


def test_the_first_difference_is_that_of_the_earliest_step() -> None:
    later = changed(3, test_loss=0.25)
    assert first(later) == {"step": 100, "metric": "test_loss", "expected": 0.5, "found": 0.25}
    both = [changed(1, train_loss=9.0)[1] if i == 1 else point for i, point in enumerate(later)]
    assert first(both) == {"step": 50, "metric": "train_loss", "expected": 2.5, "found": 9.0}


def test_a_point_that_only_one_run_has_is_a_difference() -> None:
    assert first(CURVE[:2] + CURVE[3:]) == {"step": 100, "metric": "batch_loss", "expected": 1.0, "found": None}
    assert first([*CURVE, ("batch", 150, {"batch_loss": 0.5})])["found"] == 0.5


@pytest.mark.parametrize("name", ["weights_sha256", "data_order_sha256"])
def test_equal_curves_with_another_hash_differ_at_the_end(name: str) -> None:
    expected = {"step": 100, "metric": name, "expected": RESULT[name], "found": "x"}
    assert first(CURVE, {**RESULT, name: "x"}) == expected


def test_differences_of_the_environments_are_named() -> None:
    again = {**RESULT, "device": "cuda:0", "environment": {"torch": "2.14", "threads": 1, "gpu": "H100"}}
    assert compare("job_0", RESULT, CURVE, again, CURVE)["environment_differences"] == {
        "device": {"expected": "cpu", "found": "cuda:0"},
        "gpu": {"expected": None, "found": "H100"},
        "torch": {"expected": "2.13", "found": "2.14"},
    }


@pytest.mark.parametrize(
    ("before", "now", "differences"),
    [
        (None, "stratified", {"expected": "random", "found": "stratified"}),
        ("random", "stratified", {"expected": "random", "found": "stratified"}),
        (None, "test", None),
        (None, "random", None),  # both of the version whose results did not say so
        ("stratified", "stratified", None),
    ],
)
def test_another_way_to_choose_the_validation_split_is_named(before: str | None, now: str, differences: Any) -> None:
    old = RESULT if before is None else {**RESULT, "validation_split": before}
    found = compare("job_0", old, CURVE, {**RESULT, "validation_split": now}, CURVE)
    assert found["environment_differences"].get("validation_split") == differences


def test_an_original_that_is_gone_is_neither_the_same_nor_different() -> None:
    found = without_original("job_0")
    assert found["identical"] is None
    assert "job_0 has been deleted" in found["detail"]
