"""The curve: thinning keeps its shape, CSV its exact values, and a picture is reproducible to the byte."""

from __future__ import annotations

import csv
import io
import math
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import curves
from shared.jobs.curves import Point, draw, thin, to_csv, to_series

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"
CURVE = {
    "train_loss": [(s, s // 10, 2.0 / s) for s in range(10, 60, 10)],
    "val_loss": [(s, s // 10, 2.5 / s) for s in range(10, 60, 10)],
    "batch_loss": [(s, s // 10, 3.0 / s) for s in range(5, 60, 5)],
    "val_accuracy": [(s, s // 10, 1 - 2.0 / s) for s in range(10, 60, 10)],
}

values = st.lists(
    st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from([0.0, 1.0]), max_size=300
)


def points_of(drawn: list[float]) -> list[Point]:
    return [(step, 1, value) for step, value in enumerate(drawn)]


# --- thin -------------------------------------------------------------------------------------------------------------


@given(values, st.integers(0, 60))
def test_thinned_points_are_some_of_the_points_in_order_and_never_too_many(drawn: list[float], limit: int) -> None:
    points = points_of(drawn)
    kept = thin(points, limit)
    assert len(kept) <= limit
    assert kept == sorted(set(kept), key=lambda p: p[0])
    assert set(kept) <= set(points)
    assert kept == points or len(points) > limit


@given(values.filter(lambda drawn: len(drawn) > 0), st.integers(4, 60))
def test_first_last_lowest_and_highest_stay(drawn: list[float], limit: int) -> None:
    kept = thin(points_of(drawn), limit)
    assert kept[0] == (0, 1, drawn[0])
    assert kept[-1] == (len(drawn) - 1, 1, drawn[-1])
    assert min(p[2] for p in kept) == min(drawn)
    assert max(p[2] for p in kept) == max(drawn)


def test_a_spike_of_one_point_survives_among_a_hundred_thousand() -> None:
    drawn = [math.sin(i / 1000) for i in range(100_000)]
    drawn[54_321], drawn[77_777] = 50.0, -50.0
    kept = thin(points_of(drawn), 1000)
    assert {(54_321, 1, 50.0), (77_777, 1, -50.0)} <= set(kept)
    assert len(kept) > 900


# --- series, CSV ------------------------------------------------------------------------------------------------------


def test_rows_of_values_become_one_series_a_name() -> None:
    rows = [(50, 1, {"batch_loss": 2.0}), (60, 1, {"train_loss": 1.0, "lr": 0.1}), (100, 2, {"batch_loss": 1.5})]
    assert to_series(rows) == {
        "batch_loss": [(50, 1, 2.0), (100, 2, 1.5)],
        "train_loss": [(60, 1, 1.0)],
        "lr": [(60, 1, 0.1)],
    }


def test_csv_has_one_line_per_step_and_an_empty_field_for_a_missing_point() -> None:
    assert to_csv({"b": [(1, 1, 0.5)], "a": [(2, 1, 0.25), (10, 2, 3.0)]}) == (
        "step,epoch,a,b\n1,1,,0.5\n2,1,0.25,\n10,2,3.0,\n"  # by number, not by text: 10 after 2
    )
    assert to_csv({}) == "step,epoch\n"


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_csv_keeps_every_digit(drawn: list[float]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv({"loss": points_of(drawn)}))))
    assert [float(row["loss"]) for row in rows] == drawn


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_curve_is_drawn_in_each_format_that_is_asked_for() -> None:
    png, svg = draw(CURVE, "mnist-mlp", ["png", "svg"])
    assert png.startswith(PNG)
    assert len(png) > 10_000
    assert svg.startswith(SVG)
    assert svg.rstrip().endswith(b"</svg>")
    for label in (b"batch loss", b"training loss", b"validation loss", b"validation accuracy", b"mnist-mlp"):
        assert b"<!-- " + label + b" -->" in svg
    assert [picture[:4] for picture in draw(CURVE, "", ["svg", "png"])] == [SVG[:4], PNG[:4]]


def test_the_picture_shows_the_points() -> None:
    other = {**CURVE, "val_loss": [(s, e, value * 2) for s, e, value in CURVE["val_loss"]]}
    assert draw(CURVE, "", ["png"]) != draw(other, "", ["png"])


@pytest.mark.parametrize("format", ["png", "svg"])
def test_the_same_curve_is_the_same_bytes(format: str) -> None:
    assert draw(CURVE, "title", [format]) == draw(CURVE, "title", [format])


@pytest.mark.parametrize(
    "series", [CURVE, {}, {"train_loss": [(5, 1, 2.0), (9000, 2, 0.001)]}, {"val_accuracy": [(1, 1, 0.5)]}]
)
def test_a_picture_shows_nothing_of_the_one_before(series: dict[str, Any]) -> None:
    curves._sheet.cache_clear()
    first = draw(series, "first", ["png", "svg"])
    for before in (CURVE, {}, {"val_loss": [(1, 1, float("nan")), (2_000_000, 9, 1e9)]}):
        draw(before, "before", ["svg"])
        assert draw(series, "first", ["png", "svg"]) == first


@pytest.mark.parametrize("title", ["costs $5", "from $5 to $6", r"\$x$", "$$", "$\\frac{$", "a_b^c", "<&>", "Größe"])
def test_a_title_is_drawn_as_plain_text(title: str) -> None:
    (svg,) = draw({}, title, ["svg"])
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<!-- {escaped} -->" in svg.decode()


@pytest.mark.parametrize("letter", ["\ufffe", "\uffff", "\x0b", "\x9b", "\u202e", "\ud800"], ids=ascii)
def test_a_title_that_xml_cannot_hold_is_drawn_escaped(letter: str) -> None:
    (svg,) = draw(CURVE, f"a{letter}$b$", ["svg"])
    ElementTree.fromstring(svg)
    assert f"<!-- a{ascii(letter)[1:-1]}$b$ -->" in svg.decode()


@pytest.mark.parametrize("series", [{}, {"val_accuracy": [(1, 1, 0.5)]}, {"train_loss": []}, {"lr": [(1, 1, 0.1)]}])
def test_a_curve_without_much_to_show_is_drawn_too(series: dict[str, Any]) -> None:
    (svg,) = draw(series, "early", ["svg"])
    assert (b"no points yet" in svg) == (not series.get("val_accuracy"))
