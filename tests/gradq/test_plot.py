"""Curves in braille: the right size, the right ends, also for a diverged loss."""

from __future__ import annotations

import math

from gradq.commands.plot import BRAILLE, Curve, plot


def test_a_falling_curve_starts_top_left_and_ends_bottom_right():
    rows = plot([Curve("train", "blue", [(0, 1.0), (100, 0.0)])], 40, 10).plain.splitlines()
    assert len(rows) == 10
    assert max(map(len, rows)) <= 40
    first, last = rows[0].split("│")[1], rows[7].split("│")[1]
    assert ord(first[0]) > BRAILLE
    assert ord(last[-1]) > BRAILLE
    assert first[-1] == " "
    assert "train 0" in rows[-1]


def test_points_that_are_not_finite_are_left_out():
    text = plot([Curve("train", "blue", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.5)])], 40, 10).plain
    assert "nan" not in text
    assert "inf" not in text


def test_no_point_and_one_point_can_be_drawn():
    assert "no points yet" in plot([], 40, 10).plain
    assert "no points yet" in plot([Curve("train", "blue", [])], 40, 10).plain
    assert "0.5" in plot([Curve("train", "blue", [(3, 0.5)])], 40, 10).plain


def test_a_tiny_terminal_is_no_error():
    assert plot([Curve("train", "blue", [(0, 1.0), (1, 2.0)])], 1, 1).plain
