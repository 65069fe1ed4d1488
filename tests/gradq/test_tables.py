"""Tables: ids are never truncated, and a pipe gets no colour."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gradq.commands.formatting import size, span
from gradq.commands.ps import jobs_table

JOB = {
    "id": "job_01a20ca12b447dceb2fada21ca7ef28b",
    "name": "a-name-that-is-rather-long-for-a-table",
    "kind": "training",
    "status": "cancelling",
    "spec": {"gradients": "manual", "epochs": 10_000},
    "progress": {"epoch": 9_999, "epochs": 10_000},
    "result": None,
    "created_at": "2026-11-24T07:00:00.000Z",
}


@pytest.mark.parametrize("width", [80, 100, 140])
def test_an_id_and_a_status_are_never_cut(width):
    out = io.StringIO()
    jobs_table([JOB], Console(file=out, force_terminal=True, color_system=None, width=width))
    lines = out.getvalue().splitlines()
    assert JOB["id"] in lines[1]
    assert "cancelling" in lines[1]
    assert max(map(len, lines)) <= width


def test_an_empty_list_says_how_to_fill_it():
    out = io.StringIO()
    jobs_table([], Console(file=out, force_terminal=True, width=80))
    assert "gradq submit" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (259_200, "3 d")]
)
def test_spans_are_short(seconds, text):
    assert span(seconds) == text


def test_sizes_are_decimal():
    assert [size(n) for n in (999, 1500, 2_000_000, 3e9)] == ["999 B", "1.5 kB", "2.0 MB", "3.0 GB"]
