"""The pixels of an upload are those that training, predictions over HTTP, predict.py and ONNX see: of every kind of
picture and array. Predicting the very training files gives the labels of the training."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from support.images import idx, npz, zipped
from support.pictures import KINDS, class_folders, drawing, oriented, saved

from api.uploads import pictures
from api.uploads.fields import UploadFields
from api.uploads.ingest import ingest
from shared import inference
from shared.datasets.catalog import ARRAYS, DatasetInfo
from shared.spec.job_spec import JobSpec
from worker.trainer.job import run_job
from worker.trainer.run import Run

TRAINED, TESTED = 12, 3  # pictures per class
NETS: dict[str, Any] = {
    "linear": {"type": "linear"},
    "mlp": {"type": "mlp", "hidden": [16]},
    "cnn": {"type": "cnn", "channels": [6], "hidden": [12]},
}
LONG = pytest.mark.long
IN_PREDICT_PY = [kind for kind in KINDS if "JPEG" not in kind]  # which reads PNG only


class Uploaded:
    """An upload in its stored form."""

    def __init__(self, folder: Path, parts: dict[str, bytes], **fields: Any) -> None:
        paths = {}
        for name, content in parts.items():
            paths[name] = folder / f"{name}.part"
            paths[name].write_bytes(content)
        self.folder = folder / "stored"
        given = UploadFields.parse({name: str(value) for name, value in fields.items()})
        self.info: DatasetInfo = ingest(paths, given, "test", self.folder, 1 << 30)[0]
        self.images, self.labels = (np.load(self.folder / ARRAYS[i]) for i in (0, 1))

    @property
    def pixels(self) -> Any:
        """The training images (N,C,H,W) in [0, 1]."""
        return self.images.astype(np.float32) / np.float32(self.info.white)

    def train(self, out: Path, architecture: Any, epochs: int = 25) -> dict[str, Any]:
        spec = {"dataset": "ds_test", "architecture": architecture, "epochs": epochs, "batch_size": 6, "seed": 1}
        torch.set_num_threads(1)
        run = Run(out)
        return run_job(
            JobSpec.parse({**spec, "validation": "test"}, lambda _: self.info),
            run,
            lambda _: None,
            data_dir=Path("nowhere"),
            download=False,
            threads=1,
            uploaded=self.folder,
        )


def files_of(kind: str) -> tuple[dict[str, bytes], list[bytes]]:
    """A zip's files with train and test folders, and the training files in the order in which they are stored."""
    every = class_folders(kind, TRAINED + TESTED)
    number = {path: int(path.split("/")[1].split(".")[0]) for path in every}
    train = {f"train/{path}": content for path, content in every.items() if number[path] < TRAINED}
    test = {f"test/{path}": content for path, content in every.items() if number[path] >= TRAINED}
    return {**train, **test}, list(train.values())


def described(uploaded: Uploaded) -> inference.Model:
    """A model without layers that takes what was uploaded."""
    shape, white = uploaded.info.shape, uploaded.info.white
    scale = {"mean": [0.5] * shape[0], "std": [1.0] * shape[0], "white": white}
    description = {"layers": [], "input_shape": shape, "classes": ["a", "b"], "normalization": scale}
    return inference.Model(description, {})


@pytest.mark.parametrize("size", [5, pytest.param(17, marks=LONG), pytest.param(None, marks=LONG)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_the_same_pixels_uploaded_and_predicted(tmp_path, kind, size):
    files, trained = files_of(kind)
    uploaded = Uploaded(tmp_path, {"file": zipped(files)}, **({} if size is None else {"size": size}))
    assert [("brightest pixel" in warning) for warning in uploaded.info.warnings] == [True] * kind.startswith("dark")
    model = described(uploaded)
    seen = np.concatenate([model.picture(pictures.decode(file, lambda *_: None)) for file in trained])
    np.testing.assert_array_equal(seen, uploaded.pixels)
    if kind in IN_PREDICT_PY:
        alone = np.concatenate([model.picture(inference.read_png(file)) for file in trained])
        np.testing.assert_array_equal(alone, uploaded.pixels)
    first_of_b = uploaded.images[uploaded.labels == 1][0]
    assert len(np.unique(first_of_b)) > 1


@pytest.mark.parametrize(
    ("kind", "channels", "white"),
    [
        ("palette of greys", 1, 255),
        ("palette of greys with transparency", 1, 255),
        ("palette", 3, 255),
        ("LA", 1, 255),
        ("grey with tRNS", 1, 255),
        ("16-bit grey", 1, 65_535),
        ("dark 16-bit grey", 1, 65_535),
        ("16-bit grey with tRNS", 1, 65_535),
        ("16-bit LA", 1, 255),
        ("16-bit RGB", 3, 255),
    ],
)
def test_greys_are_one_channel_and_keep_their_depth(tmp_path, kind, channels, white):
    files, _ = files_of(kind)
    uploaded = Uploaded(tmp_path, {"file": zipped(files)})
    assert (uploaded.info.shape, uploaded.info.white) == ((channels, 12, 12), white)
    if kind == "dark 16-bit grey":
        assert uploaded.images[0, 0].tolist() == drawing(0, 0).tolist()


def test_pictures_of_several_kinds_are_stored_in_the_richest_form(tmp_path):
    files = {
        "a/0.png": KINDS["grey"](drawing(0, 0)),
        "a/1.png": KINDS["16-bit grey"](drawing(0, 1)),
        "b/2.png": KINDS["RGB"](drawing(1, 2)),
        "b/3.jpg": KINDS["JPEG"](drawing(1, 3)),
    }
    more = {path.replace(".png", "x.png"): content for path, content in class_folders("grey", 6).items()}
    uploaded = Uploaded(tmp_path, {"file": zipped({**files, **more})}, test_fraction=0.1)
    assert (uploaded.info.shape[0], uploaded.info.dtype, uploaded.info.white) == (3, "float32", 65_535)
    model = described(uploaded)
    for content in files.values():
        seen = model.picture(pictures.decode(content, lambda *_: None))[0]
        assert any(np.array_equal(seen, stored) for stored in uploaded.pixels) or content in list(files.values())[-1:]


def test_a_turned_picture_has_the_size_that_it_is_shown_with(tmp_path):
    wide = {f"{c}/{i}.png": saved_turned(i, label) for label, c in enumerate("ab") for i in range(6)}
    uploaded = Uploaded(tmp_path, {"file": zipped(wide)})
    assert uploaded.info.shape == (1, 8, 12)


def saved_turned(i: int, label: int) -> bytes:
    return oriented(drawing(label, i)[:8], 6 if i % 2 else 3)


# --- trainings --------------------------------------------------------------------------------------------------------


class Finished:
    """A trained model over all three doors."""

    def __init__(self, client: Any, hands: Any, folder: Path) -> None:
        self.client, self.folder = client, folder
        job = hands.submit()
        lease = hands.start()
        names = ("model.json", "model.safetensors")
        hands.finish(lease, files=[hands.store(lease, name, (folder / name).read_bytes()) for name in names])
        self.path = f"/v1/jobs/{job['id']}/predict"

    def over_http(self, files: list[bytes]) -> list[int]:
        answer = self.client.post(self.path, data={"files": [(io.BytesIO(f), f"{i}.bin") for i, f in enumerate(files)]})
        assert answer.status_code == 200, answer.text
        return [prediction["label"] for prediction in answer.json["predictions"]]

    def by_json(self, images: Any, **more: Any) -> list[int]:
        answer = self.client.post(
            self.path, data=json.dumps({"images": images, **more}), content_type="application/json"
        )
        assert answer.status_code == 200, answer.text
        return [prediction["label"] for prediction in answer.json["predictions"]]

    def by_predict_py(self, files: list[bytes]) -> list[int]:
        names = [f"{i}.png" for i in range(len(files))]
        for name, content in zip(names, files, strict=True):
            (self.folder / name).write_bytes(content)
        command = [sys.executable, "-I", "predict.py", "--json", *names]
        run = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=150)
        assert run.returncode == 0, run.stderr
        return [answer["label"] for answer in json.loads(run.stdout)]

    def by_onnx(self, pixels: Any) -> list[int]:
        session = onnxruntime.InferenceSession(self.folder / "model.onnx", providers=["CPUExecutionProvider"])
        labels: list[int] = session.run(["probabilities"], {"images": pixels})[0].argmax(1).tolist()
        return labels


def assert_training_files_are_recognized(client, hands, folder: Path, kind: str, net: str, size: int | None) -> None:
    files, trained = files_of(kind)
    uploaded = Uploaded(folder, {"file": zipped(files)}, **({} if size is None else {"size": size}))
    result = uploaded.train(folder / "run", NETS[net])
    assert result["test_accuracy"] == 1
    model = Finished(client, hands, folder / "run" / "artifacts")
    labels = uploaded.labels.tolist()
    assert model.over_http(trained) == labels
    own = inference.load(model.folder)
    pixels = np.concatenate([own.picture(pictures.decode(file, lambda *_: None)) for file in trained])
    assert model.by_onnx(pixels) == labels
    if kind in IN_PREDICT_PY:
        assert model.by_predict_py(trained) == labels


@pytest.mark.parametrize(
    ("kind", "net", "size"),
    [
        ("RGBA", "linear", 7),
        ("16-bit grey with tRNS", "cnn", None),
        ("JPEG, orientation 8", "mlp", None),
    ],
)
def test_the_training_files_are_labelled_as_in_training(client, hands, tmp_path, kind, net, size):
    assert_training_files_are_recognized(client, hands, tmp_path, kind, net, size)


@LONG
@pytest.mark.parametrize(("net", "size"), [("linear", None), ("mlp", 8), ("cnn", 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_training_files_of_every_kind_are_labelled_as_in_training(client, hands, tmp_path, kind, net, size):
    assert_training_files_are_recognized(client, hands, tmp_path, kind, net, size)


# --- arrays -----------------------------------------------------------------------------------------------------------


def of_arrays(n: int) -> tuple[Any, Any]:
    """Greys (n,12,12) uint8 from 0 to 255, and their labels."""
    labels = np.arange(n) % 2
    greys = np.stack([drawing(int(label), i) for i, label in enumerate(labels)]).astype(int)
    return ((greys - 20) * 255 // 189).clip(0, 255).astype(np.uint8), labels


QUICK = ("booleans", "integers 0 and 1", "0 to 16", "fractions", "floats 0 to 255", "12 bits")
SCALES: dict[str, Any] = {
    "bytes": lambda x: x,
    "booleans": lambda x: x > 120,
    "bytes 0 and 1": lambda x: (x > 120).astype(np.uint8),
    "integers 0 and 1": lambda x: (x > 120).astype(np.int64),
    "floats 0 and 1": lambda x: (x > 120).astype(np.float32),
    "0 to 16": lambda x: x // 16 + (x == 255),
    "floats 0 to 16": lambda x: (x // 16 + (x == 255)).astype(np.float64),
    "fractions": lambda x: x / 255,
    "floats 0 to 255": lambda x: x.astype(np.float32),
    "16 bits": lambda x: x.astype(np.uint16) * 257,
    "12 bits": lambda x: x.astype(np.uint16) * 16,
    "columns first": lambda x: np.asfortranarray(x),
}


@pytest.mark.parametrize("scale", [s if s in QUICK else pytest.param(s, marks=LONG) for s in SCALES])
def test_the_training_arrays_are_labelled_as_in_training(client, hands, tmp_path, scale):
    greys, labels = of_arrays(40)
    x = SCALES[scale](greys)
    declared = {"white": 4095} if scale == "12 bits" else {}
    uploaded = Uploaded(tmp_path, {"file": npz(x=x, y=labels)}, test_fraction=0.2, **declared)
    assert uploaded.train(tmp_path / "run", "linear")["test_accuracy"] == 1
    model = Finished(client, hands, tmp_path / "run" / "artifacts")
    expected = labels.tolist()
    numbers = x.astype(int) if x.dtype == bool else x
    assert model.over_http([npz(x=x)]) == expected
    assert model.by_json(numbers.tolist()) == expected
    assert model.by_json(numbers.tolist(), white=uploaded.info.white) == expected
    assert [model.by_json(image.tolist()) for image in numbers] == [[label] for label in expected]
    own = inference.load(model.folder)
    assert [answer["label"] for answer in own.predict(x)] == expected
    assert model.by_onnx(own.array(x)) == expected
    if x.dtype != bool and declared == {}:  # a drawing, and a picture of the same thing
        pixels = own.array(x)
        assert model.by_json(pixels.tolist(), white=1) == expected
        assert model.over_http([saved_grey(image) for image in pixels[:, 0]]) == expected


def saved_grey(pixels: Any) -> bytes:
    from PIL import Image

    return saved(Image.fromarray(np.rint(pixels * 255).astype(np.uint8)))


def test_an_idx_pair_is_labelled_as_in_training(client, hands, tmp_path):
    greys, labels = of_arrays(40)
    parts = {"images": idx(greys), "labels": idx(labels.astype(np.uint8))}
    uploaded = Uploaded(tmp_path, parts, test_fraction=0.2)
    assert uploaded.train(tmp_path / "run", "linear")["test_accuracy"] == 1
    model = Finished(client, hands, tmp_path / "run" / "artifacts")
    assert model.over_http([npz(images=greys)]) == labels.tolist()


@pytest.mark.parametrize(
    ("blue", "other"), [(128, 129), *(pytest.param(*of, marks=LONG) for of in ((0, 0), (0, 1), (255, 254), (7, 0)))]
)
def test_one_grey_level_in_a_channel_that_was_constant_changes_no_label(client, hands, tmp_path, blue, other):
    greys, labels = of_arrays(40)
    x = np.stack([greys, greys // 2, np.full_like(greys, blue)], axis=3)
    later = x.copy()
    later[..., 2] = other
    given = {"x_train": x, "y_train": labels, "x_test": later, "y_test": labels}
    uploaded = Uploaded(tmp_path, {"file": npz(**given)})
    assert any("the channel blue" in warning for warning in uploaded.info.warnings)
    result = uploaded.train(tmp_path / "run", "linear")
    assert result["normalization"]["std"][2] == 1
    assert result["test_accuracy"] == 1
    assert result["test_loss"] < 0.5
    model = Finished(client, hands, tmp_path / "run" / "artifacts")
    assert model.over_http([npz(x=later)]) == labels.tolist()
    assert model.by_onnx(inference.load(model.folder).array(later)) == labels.tolist()
