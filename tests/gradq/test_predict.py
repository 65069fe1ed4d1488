"""`gradq predict` against the real API: a table, JSON, and messages for refused images."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from gradq.client.images import body_of

MODEL = {
    "architecture": {"type": "linear"},
    "layers": [{"type": "Flatten", "arguments": {}}, {"type": "Linear", "arguments": {}}],
    "input_shape": [1, 2, 2],
    "classes": ["bright", "dark", "never"],
    "normalization": {"mean": [0.0], "std": [1.0], "white": 16.0},
}
WEIGHTS = {"1.weight": np.array([[1] * 4, [-1] * 4, [0] * 4], np.float32), "1.bias": np.array([-2, 2, -9], np.float32)}


@pytest.fixture
def job_id(api) -> str:
    job_id = api.submit()
    api.finish(api.start(), files={"model.json": json.dumps(MODEL).encode(), "model.safetensors": save(WEIGHTS)})
    return job_id


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, value in (("white.png", 255), ("black.jpg", 0)):
        out = io.BytesIO()
        Image.new("L", (9, 5), value).save(out, "png" if name.endswith("png") else "jpeg")
        (tmp_path / name).write_bytes(out.getvalue())
    np.savez(tmp_path / "two.npz", images=np.array([[[16, 16], [16, 16]], [[0, 0], [0, 0]]]))
    return [str(tmp_path / name) for name in ("white.png", "black.jpg", "two.npz")]


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "<u2"), ("I;16B", ">u2"), ("I;16L", "<u2"), ("I", "<i4")])
def test_a_pillow_image_keeps_its_16_bits(mode, kind):
    pixels = np.array([[0, 255, 256], [45_232, 52_171, 65_535]])
    image = Image.frombytes(mode, (3, 2), pixels.astype(kind).tobytes())
    ((_, (_, content)),) = body_of(image)["files"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def test_a_table_has_each_image_s_label_and_the_likeliest_classes(gradq, job_id, files):
    result = gradq("predict", job_id, *files)
    assert result.exit_code == 0, result.output
    header, *lines = [line.split() for line in result.stdout.splitlines()]
    assert header == ["file", "label", "likeliest"]
    assert [line[:2] for line in lines] == [
        ["white.png", "bright"],
        ["black.jpg", "dark"],
        ["two.npz", "bright"],
        ["two.npz", "dark"],
    ]
    assert lines[0][2:] == ["bright", "98.2%", "dark", "1.8%", "never", "0.0%"]


def test_json_is_the_answer_of_the_service(gradq, job_id, files):
    answer = json.loads(gradq("predict", job_id, files[0], "--json", "--invert").stdout)
    assert answer["object"] == "predictions"
    assert answer["predictions"][0]["class"] == "dark"
    assert sum(answer["predictions"][0]["probabilities"]) == pytest.approx(1, abs=1e-6)


def test_the_white_of_an_npz_can_be_declared(gradq, job_id, tmp_path):
    np.savez(tmp_path / "dim.npz", images=np.array([[[1, 1], [1, 1]]]))

    def label(*options: str) -> str:
        return gradq("predict", job_id, str(tmp_path / "dim.npz"), *options).stdout.splitlines()[1].split()[1]

    assert [label(), label("--white", "1"), label("--white", "255")] == ["bright", "bright", "dark"]


def test_what_cannot_be_used_is_said_in_a_sentence(gradq, api, job_id, files, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    result = gradq("predict", job_id, str(tmp_path / "notes.txt"))
    assert result.exit_code == 2
    assert result.stderr == "gradq: notes.txt: neither a PNG, a JPEG nor an npz\n"
    (tmp_path / "more.txt").write_text("hello")
    two = ("predict", job_id, str(tmp_path / "notes.txt"), str(tmp_path / "more.txt"), "--json")
    problem = json.loads(gradq(*two).stderr)
    assert [wrong["pointer"] for wrong in problem["errors"]]
    assert problem["detail"] == "; ".join(wrong["detail"] for wrong in problem["errors"])
    assert "cannot read" in gradq("predict", job_id, str(tmp_path / "gone.png")).stderr
    result = gradq("predict", api.submit(), files[0])
    assert (result.exit_code, "is queued" in result.stderr) == (1, True)
