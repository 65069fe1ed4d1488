"""`gradq compare`: spec differences, distances of curves, and a picture in which two equal curves are both visible."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from gradq.commands import compare
from gradq.commands.compare import PICTURED
from gradq.commands.comparison import between, distances, same_weights, spec_differences
from gradq.commands.curves_picture import draw

CURVE = [[10, 1, 1.0], [20, 2, 0.5], [30, 3, None]]


def test_differences_of_specs_are_named_by_their_path():
    one = {"spec": {"lr": 0.1, "architecture": {"type": "mlp", "hidden": [30]}, "augment": []}}
    other = {"spec": {"lr": 0.1, "architecture": {"type": "mlp", "hidden": [8]}, "augment": [], "seed": 3}}
    assert [(row.name, row.values) for row in spec_differences([one, other])] == [
        ("architecture.hidden", ["[30]", "[8]"]),
        ("seed", [None, 3]),
    ]


def test_the_distance_of_two_curves_is_over_the_steps_of_both():
    other = [[10, 1, 1.25], [20, 2, 0.5], [30, 3, 9.0], [40, 4, 9.0]]
    found = between("train_loss", {"train_loss": CURVE}, {"train_loss": other})
    assert found is not None
    assert (found.largest, found.step, found.points) == (0.25, 10, 2)
    assert between("train_loss", {"train_loss": CURVE}, {}) is None
    far = distances([{"train_loss": CURVE}, {"train_loss": CURVE}, {"train_loss": other}])
    assert [(d.metric, d.largest) for d in far] == [("train_loss", 0.25)]


def test_weights_are_the_same_only_if_all_have_them():
    a, b, none = ({"result": {"weights_sha256": "a"}}, {"result": {"weights_sha256": "b"}}, {"result": None})
    assert (same_weights([a, a]), same_weights([a, b]), same_weights([a, none])) == (True, False, None)


@pytest.fixture
def pair(api) -> tuple[str, str]:
    """A manual and an autograd job whose curves are equal but for one point."""
    ids = []
    for gradients, loss in (("manual", 0.5), ("autograd", 0.25)):
        ids.append(api.submit(gradients=gradients, seed=7, epochs=2, name=f"by-{gradients}"))
        lease = api.start()
        api.point(lease, 20, 1, train_loss=1.5, val_loss=1.25)
        api.point(lease, 40, 2, train_loss=loss, val_loss=0.75)
        api.finish(lease, weights_sha256="ab" * 32, duration_seconds=1.5)
    return ids[0], ids[1]


def test_two_jobs_are_held_side_by_side(gradq, pair):
    result = gradq("compare", *pair)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["1", pair[0], "succeeded", "by-manual"] in lines
    assert ["gradients", "manual", "autograd"] in lines
    assert ["train_loss", "0.25", "40", "2"] in lines
    assert ["val_loss", "0", "20", "2"] in lines
    assert ["weights_sha256", "abababababab", "abababababab"] in lines
    assert lines[-1] == ["weights:", "the", "same,", "bit", "for", "bit"]


def test_the_comparison_is_json_for_scripts(gradq, pair):
    found = json.loads(gradq("compare", *pair, "--json").stdout)
    assert found["jobs"] == list(pair)
    assert {"field": "gradients", "values": ["manual", "autograd"]} in found["spec_differences"]
    assert {"metric": "train_loss", "largest_difference": 0.25, "step": 40, "points": 2} in found["curves"]
    assert found["same_weights"] is True
    assert [row["equal"] for row in found["results"] if row["field"] == "weights_sha256"] == [True]


def test_in_a_terminal_the_second_curve_has_gaps_in_which_the_first_shows(gradq, pair, monkeypatch):
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, color_system="standard", width=80, height=30, highlight=False)
    monkeypatch.setattr(compare, "PlainConsole", lambda **_: terminal)
    assert gradq("compare", *pair, "--metric", "val_loss").exit_code == 0
    assert "manual gradients 0.75" in drawn.getvalue()
    braille = [line for line in drawn.getvalue().splitlines() if any(0x2800 < ord(c) < 0x2900 for c in line)]
    assert any("\x1b[94m" in line for line in braille), "the first curve, in the gaps"
    assert any("\x1b[31m" in line for line in braille), "the second, over it"


def test_the_picture_shows_both_of_two_curves_that_are_one(gradq, pair, tmp_path: Path):
    picture = tmp_path / "new" / "curve.png"
    result = gradq("compare", *pair, "-o", str(picture), "--metric", "val_loss")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, str(picture))
    pixels = {
        tuple(pixel) for pixel in np.unique(np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3), axis=0)
    }
    dark, white = (0xD1, 0x57, 0x2B), 255
    pale = tuple(round(0.3 * channel + 0.7 * white) for channel in dark)
    assert dark in pixels, "the thin curve"
    assert any(all(abs(a - b) <= 2 for a, b in zip(pale, map(int, pixel), strict=True)) for pixel in pixels), (
        "the broad one below"
    )


def test_a_picture_is_the_same_bytes_for_the_same_curves(gradq, pair, tmp_path: Path):
    for name in ("a.svg", "b.svg"):
        assert gradq("compare", *pair, "-o", str(tmp_path / name)).exit_code == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<text" not in (tmp_path / "a.svg").read_bytes(), "text is drawn, no font is needed"


@pytest.mark.parametrize("name", ["$x$", "$\\frac{$", "a\ufffe\x9b", "_b", "<a href='x'>"], ids=ascii)
def test_names_of_any_kind_are_drawn_as_plain_text(tmp_path: Path, name: str):
    draw(tmp_path / "a.svg", [name], [{"train_loss": [(1, 1, 2.0), (2, 1, 1.0)]}], ["train_loss"], ["title", name])
    svg = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(svg)
    shown = name.replace("\ufffe\x9b", r"\ufffe\x9b").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<!-- training loss, {shown} -->" in svg


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metric", "train_lost"), "unknown metric train_lost; must be one of batch_loss, train_loss"),
        (("-o", "curve.gif"), "must end in .png, .svg, .pdf"),
        (("-o", "/proc/nowhere/curve.png"), "cannot write /proc/nowhere/curve.png"),
    ],
)
def test_what_cannot_be_compared_or_drawn_is_said(gradq, pair, options, words):
    result = gradq("compare", *pair, *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_one_job_is_too_few(gradq, pair):
    assert "two or more jobs" in gradq("compare", pair[0]).stderr
    assert gradq("compare", pair[0], "job_0").exit_code == 1


def test_jobs_that_have_not_begun_can_be_compared(gradq, api):
    result = gradq("compare", api.submit(epochs=1), api.submit(epochs=2))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "weights: not in every job"


def test_a_picture_names_the_jobs_that_have_a_curve_and_is_not_written_empty(gradq, api, pair, tmp_path: Path):
    waiting = [api.submit(epochs=1, name="waits"), api.submit(epochs=1, name="waits-too")]
    for ids, name in (([pair[0], waiting[0]], "with"), ([pair[0]], "alone")):
        curves = [api.client.job(id).metrics() for id in ids]
        draw(tmp_path / f"{name}.svg", ["one", "two"][: len(ids)], curves, PICTURED, ["title"])
    assert (tmp_path / "with.svg").read_bytes() == (tmp_path / "alone.svg").read_bytes()

    refused = gradq("compare", *waiting, "-o", str(tmp_path / "empty.png"))
    assert refused.exit_code == 2
    assert "nothing to draw: none of these jobs has train_loss or val_loss" in refused.stderr
    assert not (tmp_path / "empty.png").exists()
