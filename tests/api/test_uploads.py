"""Uploading datasets over HTTP: what is accepted, its stored form, and that refused uploads leave no files."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import struct
import tarfile
import threading
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.images import folders, idx, npy, npy_that_says, npz, picture, pixels, small, zipped
from support.waiting import wait_for
from werkzeug.serving import make_server

from api.routes import datasets as view
from shared.errors import DatabaseAway
from shared.jobs.states import JobState

LIMIT, UNPACKED = 3_000_000, 6_000_000


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"max_upload_bytes": LIMIT, "max_unpacked_bytes": UNPACKED})


def form(*, fields: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    """Bytes by the name of their part; a tuple has the file name too."""
    files = {}
    for name, given in parts.items():
        content, file_name = given if isinstance(given, tuple) else (given, f"{name}.bin")
        files[name] = (io.BytesIO(content), file_name)
    return {**files, **(fields or {})}


@pytest.fixture
def upload(client):
    def send(content: Any = None, *, fields: dict[str, Any] | None = None, **parts: Any):
        if content is not None:
            parts["file"] = content
        return client.post(
            "/v1/datasets", data=form(fields=fields, **parts), content_type="multipart/form-data", buffered=True
        )

    return send


@pytest.fixture
def arrays(services):
    """The stored arrays of a dataset, by name."""

    def load(dataset: dict[str, Any]) -> dict[str, Any]:
        with services.database.read() as session:
            folder = services.store.local_path(view.dataset_store.get(session, dataset["id"], None).folder)
        return {path.stem: np.load(path, allow_pickle=False) for path in folder.glob("*.npy")}

    return load


def lying(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder`, except the database's files, with its contents; None if it was removed meanwhile.

    os.walk, unlike Path.rglob, ignores folders that are removed meanwhile."""
    found: dict[str, bytes | None] = {}
    for place, inside, files in os.walk(folder):
        found |= {str((Path(place) / name).relative_to(folder)): b"" for name in inside}
        for path in (Path(place) / name for name in files if not name.startswith("gradq.db")):
            try:
                found[str(path.relative_to(folder))] = path.read_bytes()
            except FileNotFoundError:
                found[str(path.relative_to(folder))] = None
    return found


class TestTaken:
    def test_an_npz_with_its_own_split(self, upload, arrays, conforms, client):
        given = {"x_train": pixels(30, 7, 5), "y_train": np.arange(30) % 3}
        given |= {"x_test": pixels(9, 7, 5, seed=1), "y_test": np.arange(9) % 3}
        content = npz(**given)
        answer = upload((content, "My digits.v2.npz"))
        assert answer.status_code == 201, answer.text
        body = answer.json
        conforms(body, "Dataset")
        assert answer.headers["Location"] == f"/v1/datasets/{body['id']}" == body["links"]["self"]
        assert body["id"].startswith("ds_")
        assert len(body["id"]) == 35
        assert (body["name"], body["source"], body["available"]) == ("My digits", "upload", True)
        assert (body["shape"], body["classes"], body["dtype"], body["white"]) == (
            [1, 7, 5],
            ["0", "1", "2"],
            "uint8",
            255,
        )
        assert (body["train_examples"], body["test_examples"]) == (30, 9)
        assert body["sha256"] == hashlib.sha256(content).hexdigest()
        assert body["options"] == {"format": "npz", "files": {"file": body["sha256"]}}
        stored = arrays(body)
        assert np.array_equal(stored["train_images"][:, 0], given["x_train"])
        assert np.array_equal(stored["test_labels"], given["y_test"])
        assert stored["test_labels"].dtype == np.int64
        assert client.get(f"/v1/datasets/{body['id']}").json == body
        assert client.get("/v1/datasets").json["data"][-1] == body

    def test_without_a_split_a_share_of_each_class_is_held_out(self, upload, arrays):
        given = small(100, 4)
        body = upload(npz(**given), fields={"test_fraction": "0.2", "seed": "3"}).json
        assert (body["train_examples"], body["test_examples"]) == (80, 20)
        assert body["options"]["test_fraction"] == 0.2
        assert body["options"]["seed"] == 3
        stored = arrays(body)
        assert np.bincount(stored["test_labels"]).tolist() == [5, 5, 5, 5]
        both = np.concatenate([stored["train_images"], stored["test_images"]])[:, 0]
        assert sorted(map(bytes, both)) == sorted(map(bytes, given["x"]))

    @pytest.mark.parametrize("packed", [False, True])
    def test_an_idx_pair_plain_and_gzipped(self, upload, arrays, packed):
        images, labels = pixels(30, 5, 5), (np.arange(30) % 3).astype(np.uint8)
        body = upload(images=idx(images, packed), labels=idx(labels, packed)).json
        assert (body["options"]["format"], body["shape"], body["train_examples"]) == ("idx", [1, 5, 5], 27)
        test = {"test_images": idx(images[:6], packed), "test_labels": idx(labels[:6], packed)}
        body = upload(images=idx(images, packed), labels=idx(labels, packed), **test).json
        assert (body["train_examples"], body["test_examples"]) == (30, 6)
        assert np.array_equal(arrays(body)["train_images"][:, 0], images)

    @pytest.mark.parametrize("top", ["", "pets/", "a/b/"])
    def test_a_zip_of_class_folders(self, upload, arrays, top):
        noise = {"__MACOSX/pets/cats/._1.png": b"x", f"{top}.DS_Store": b"x", f"{top}README.md": b"pets"}
        body = upload((zipped(folders(12, top) | noise), "pets.zip")).json
        assert (body["name"], body["classes"], body["shape"]) == ("pets", ["cats", "dogs"], [1, 6, 6])
        assert (body["train_examples"], body["test_examples"]) == (22, 2)
        stored = arrays(body)
        wanted = sorted(bytes(pixels(1, 6, 6, seed=i)[0]) for i in range(12))
        of_cats = [stored[f"{split}_images"][stored[f"{split}_labels"] == 0] for split in ("train", "test")]
        assert sorted(map(bytes, np.concatenate(of_cats))) == wanted

    def test_train_and_test_folders_are_the_splits(self, upload):
        files = folders(9, "pets/train/") | folders(3, "pets/test/")
        body = upload(zipped(files)).json
        assert (body["train_examples"], body["test_examples"], body["classes"]) == (18, 6, ["cats", "dogs"])
        assert "test_fraction" not in body["options"]

    def test_training_and_testing_of_a_mac_and_a_nas_are_two_splits_of_the_same_classes(self, upload):
        names = {"training": "Kätzchen", "testing": unicodedata.normalize("NFD", "Kätzchen")}
        files = {}
        for split, name in names.items():
            files |= folders(9, f"digits/{split}/", classes=(name, "日本"))
            files |= {f"digits/{split}/{name}/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg": b"", f"digits/{split}/Icon\r": b""}
        body = upload(zipped(files)).json
        assert (body["classes"], body["train_examples"], body["test_examples"]) == (["Kätzchen", "日本"], 18, 18)

    def test_classes_named_by_numbers_are_in_the_order_of_the_numbers(self, upload):
        body = upload(zipped(folders(4, classes=("10", "9", "0")))).json
        assert body["classes"] == ["0", "9", "10"]

    def test_one_coloured_image_makes_all_of_them_rgb(self, upload, arrays):
        files = folders(12)
        red = np.zeros((6, 6, 3), np.uint8)
        red[..., 0] = 200
        files["dogs/last.png"] = picture(red)
        body = upload(zipped(files)).json
        assert body["shape"] == [3, 6, 6]
        stored = arrays(body)
        both = np.concatenate([stored["train_images"], stored["test_images"]])
        grey = (both == both[:, :1]).all(axis=(1, 2, 3))
        assert grey.sum() == 24
        assert both[~grey][0].tolist() == red.transpose(2, 0, 1).tolist()

    def test_images_of_many_kinds_and_sizes_are_brought_to_one(self, upload):
        files = folders(10)
        deep = Image.fromarray((np.arange(64 * 48).reshape(64, 48) * 20 % 65_536).astype(np.uint16))
        files["cats/16 bits.png"] = picture(deep)
        files["cats/photo.jpeg"] = picture(pixels(1, 300, 400, 3)[0], "JPEG")
        files["dogs/palette.png"] = picture(Image.fromarray(pixels(1, 20, 30, 3)[0]).convert("P"))
        files["dogs/alpha.png"] = picture(Image.fromarray(pixels(1, 9, 9, 4)[0], "RGBA"))
        body = upload(zipped(files), fields={"size": "16"}).json
        assert (body["shape"], body["options"]["size"]) == ([3, 16, 16], 16)

    @pytest.mark.parametrize(
        ("kind", "factor", "dtype", "white"),
        [
            (np.int64, 1, "uint8", 255),
            (np.uint16, 257, "float32", 65_535),
            (np.float64, 1 / 255, "float32", 1),
            (np.float32, 1, "float32", 255),
            (np.float32, 100, "float32", 65_535),
            (np.float32, 257, "float32", 65_535),
            (np.bool_, 1, "uint8", 1),
        ],
    )
    def test_pixels_of_every_kind_keep_their_values(self, upload, arrays, kind, factor, dtype, white):
        x = (pixels(40, 6, 6) * float(factor)).astype(kind) if kind is not np.bool_ else pixels(40, 6, 6) > 100
        body = upload(npz(**small(x=x))).json
        assert (body["dtype"], body["white"]) == (dtype, white)
        stored = arrays(body)
        both = np.concatenate([stored["train_images"], stored["test_images"]])
        assert sorted(map(bytes, both)) == sorted(map(bytes, x.astype(dtype)))

    @pytest.mark.parametrize(
        ("highest", "kind", "white", "words"),
        [
            (1, np.uint8, 1, "no pixel exceeds 1"),
            (1, np.int64, 1, "no pixel exceeds 1"),
            (1, np.float32, 1, "no pixel exceeds 1"),
            (16, np.uint8, 16, "whole numbers from 0 to 16"),
            (15, np.int32, 15, "whole numbers from 0 to 15"),
            (16, np.float64, 16, "whole numbers from 0 to 16"),
            (2, np.uint16, 2, "whole numbers from 0 to 2"),
            (17, np.uint8, 255, "the highest pixel is 17"),
            (255, np.uint8, 255, "the highest pixel is 255"),
            (4095, np.uint16, 65_535, "the highest pixel is 4095"),
        ],
    )
    def test_white_is_found_by_the_highest_number_whatever_its_type_and_its_reason_is_given(
        self, upload, highest, kind, white, words
    ):
        x = (pixels(40, 6, 6) * (highest / 255)).round().astype(kind)
        x[0, 0, 0] = highest
        body = upload(npz(**small(x=x))).json
        assert body["white"] == white
        assert words in body["white_reason"]
        about_white = [warning for warning in body["warnings"] if "white" in warning]
        assert len(about_white) == (1 < highest < white / 2 or 1 < white <= 16)

    @pytest.mark.parametrize(
        ("highest", "kind", "white", "dtype", "warned"),
        [
            (1, np.uint8, 255, "uint8", True),
            (1, np.uint8, 1, "uint8", False),
            (12, np.uint8, 16, "uint8", False),
            (4095, np.uint16, 4095, "float32", False),
            (1000, np.float32, 65_535, "float32", True),
            (100, np.float64, 100, "float32", False),
            (0.9, np.float32, 1, "float32", False),
            (0.2, np.float32, 0.25, "float32", False),
        ],
    )
    def test_white_can_be_declared(self, upload, arrays, highest, kind, white, dtype, warned, conforms):
        x = pixels(40, 6, 6) * (highest / 255)
        x = (x if highest < 1 else x.round()).astype(kind)
        body = upload(npz(**small(x=x)), fields={"white": white}).json
        conforms(body, "Dataset")
        assert (body["white"], body["dtype"], body["options"]["white"]) == (white, dtype, white)
        assert "declares" in body["white_reason"]
        assert any("much brighter" in warning for warning in body["warnings"]) == warned
        stored = arrays(body)
        both = np.concatenate([stored["train_images"], stored["test_images"]])
        assert sorted(map(bytes, both)) == sorted(map(bytes, x.astype(dtype)))

    def test_a_declared_white_makes_another_dataset(self, upload):
        content = npz(**small(x=pixels(40, 6, 6) % 2))
        first, second = upload(content).json, upload(content, fields={"white": 255}).json
        assert (first["white"], second["white"]) == (1, 255)
        assert first["id"] != second["id"]

    @pytest.mark.parametrize(
        ("train", "test"),
        [
            (lambda x: x, lambda x: x.astype(np.float32)),
            (lambda x: x / 255, lambda x: (x > 99).astype(np.uint8)),
            (lambda x: x > 99, lambda x: (x > 99).astype(float)),
            (lambda x: x // 16, lambda x: (x // 17).astype(np.float32)),
            (lambda x: x.astype(np.int64), lambda x: x * 0),
            (lambda x: x.astype(np.uint16) * 257, lambda x: x.astype(np.float64) * 200),
        ],
    )
    def test_types_may_differ_between_the_splits_where_the_scale_does_not(self, upload, train, test):
        x, y = pixels(40, 6, 6), np.arange(40) % 4
        body = upload(npz(x_train=train(x), y_train=y, x_test=test(x), y_test=y)).json
        assert body["white"] == {1: 1, 15: 15}.get(int(train(x).max()), 255 if train(x).max() <= 255 else 65_535)

    def test_black_on_transparency_is_warned_of_and_refused_where_a_class_has_nothing_else(self, upload, problem):
        ink = np.zeros((6, 6, 4), np.uint8)
        ink[2:4, 1:5, 3] = 255
        files = folders(12)
        one = {**files, "cats/0.png": picture(ink)}
        (warning,) = upload(zipped(one)).json["warnings"]
        assert warning.startswith("cats/0.png (1 of 24 pictures)")
        assert "black on transparency" in warning
        for mode in ("RGBA", "LA"):
            empty = picture(Image.fromarray(ink, "RGBA").convert(mode))
            every = {path: empty if path.startswith("cats") else content for path, content in files.items()}
            body = problem(upload(zipped(every)), 422, "unreadable_image")
            assert "cats/0.png" in body["detail"]
            assert "'cats'" in body["detail"]
            assert "Save them on white" in body["detail"]

    def test_colours_below_full_transparency_are_lost_and_nothing_is_where_there_are_none(self, upload, problem):
        hidden = np.dstack([pixels(1, 6, 6, 3)[0], np.zeros((6, 6), np.uint8)])
        files = folders(12)
        (warning,) = upload(zipped({**files, "cats/3.png": picture(hidden)})).json["warnings"]
        assert warning.startswith("cats/3.png (1 of 24 pictures)")
        every = {path: picture(hidden) if path.startswith("cats") else content for path, content in files.items()}
        assert "cats/0.png" in problem(upload(zipped(every)), 422, "unreadable_image")["detail"]
        blank = hidden * np.uint8(0)
        assert upload(zipped({**files, "cats/3.png": picture(blank)})).json["warnings"] == []
        half = np.full((6, 6, 4), 128, np.uint8)
        assert upload(zipped({**files, "cats/3.png": picture(half)})).json["warnings"] == []

    @pytest.mark.parametrize(
        ("made", "highest", "white"),
        [
            (lambda greys: (greys // 16).astype(np.uint8), 15, 255),
            (lambda greys: (greys > 99).astype(np.uint8), 1, 255),
            (lambda greys: greys.astype(np.uint16) * 16, 4080, 65_535),
            (lambda greys: greys.astype(np.uint16), 255, 65_535),
        ],
    )
    def test_dim_pictures_are_warned_of(self, upload, made, highest, white):
        greys = pixels(24, 6, 6)
        greys[:, 0, 0], greys[:, 1, 1] = 255, 0
        files = {f"{c}/{i}.png": picture(made(greys[2 * i + n])) for i in range(12) for n, c in enumerate("ab")}
        (warning,) = upload(zipped(files)).json["warnings"]
        assert f"the brightest pixel is {highest} and white is {white}:" in warning

    def test_a_split_of_another_scale_than_the_declared_white_is_warned_of(self, upload):
        x, y = pixels(40, 6, 6), np.arange(40) % 4
        content = npz(x_train=x, y_train=y, x_test=x / 255, y_test=y)
        (warning,) = upload(content, fields={"white": 255}).json["warnings"]
        assert "the brightest pixel of x_test is 1, that of x_train 255, and white is 255" in warning

    @pytest.mark.parametrize("scale", [1, 1 / 255])
    def test_a_channel_that_hardly_differs_is_named(self, upload, scale):
        x = pixels(40, 6, 6, 3) * scale
        x[..., 1] = 77 * scale
        x[::2, 3, 3, 1] += scale / 4 if scale < 1 else 1
        (warning,) = upload(npz(**small(x=x))).json["warnings"]
        assert "the channel green hardly differs" in warning

    def test_a_class_without_test_images_is_named(self, upload):
        x, y = pixels(40, 6, 6), np.arange(40) % 4
        content = npz(x_train=x, y_train=y, x_test=x[y < 3], y_test=y[y < 3], classes=["a", "b", "c", "rare"])
        (warning,) = upload(content).json["warnings"]
        assert "the class 'rare' has no test images" in warning

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_a_class_of_equal_images_is_named(self, upload, value):
        x, y = pixels(40, 6, 6), np.arange(40) % 4
        x[y == 2] = value
        (warning,) = upload(npz(x=x, y=y, classes=["a", "b", "blank", "d"])).json["warnings"]
        assert "class 'blank' are equal" in warning
        files = folders(12) | {f"dogs/{i}.png": picture(np.full((6, 6), value, np.uint8)) for i in range(12)}
        (warning,) = upload(zipped(files)).json["warnings"]
        assert "class 'dogs' are equal" in warning

    def test_a_channel_with_one_value_is_named(self, upload):
        x = pixels(40, 6, 6, 3)
        x[..., 1] = 9
        (warning,) = upload(npz(**small(x=x))).json["warnings"]
        assert "the channel green has the value 9" in warning

    def test_a_dataset_of_an_earlier_version_is_shown(self, upload, services, client, conforms):
        dataset_id = upload(npz(**small())).json["id"]
        with services.database.write() as session:
            row = view.dataset_store.get(session, dataset_id, None)
            row.facts = {k: v for k, v in row.facts.items() if k not in ("white_reason", "warnings")}
        body = client.get(f"/v1/datasets/{dataset_id}").json
        conforms(body, "Dataset")
        assert (body["white"], body["white_reason"], body["warnings"]) == (255, None, [])

    @pytest.mark.parametrize("own_split", [False, True])
    def test_floats_that_exceed_1_by_rounding_are_cut_to_it(self, upload, arrays, own_split):
        x = pixels(40, 6, 6) / 255
        x[:, 0, 0] = 1.0009
        given = {f"{a}_{b}": v for a, v in small(x=x).items() for b in ("train", "test")} if own_split else small(x=x)
        body = upload(npz(**given)).json
        assert (body["dtype"], body["white"]) == ("float32", 1)
        stored = arrays(body)
        assert stored["train_images"].max() == stored["test_images"].max() == 1
        assert body["shape"] == [1, 6, 6]
        assert upload(npz(**small(x=x * 1.001))).json["white"] == 255

    @pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["channels last", "channels first"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_channels_may_stand_first_or_last_in_either_order_of_memory(self, upload, arrays, axes, order):
        x = pixels(40, 6, 5, 3)
        body = upload(npz(**small(x=np.asarray(x.transpose(axes), order=order)))).json
        assert body["shape"] == [3, 6, 5]
        stored = arrays(body)
        both = np.concatenate([stored["train_images"], stored["test_images"]]).transpose(0, 2, 3, 1)
        assert sorted(map(bytes, np.ascontiguousarray(both))) == sorted(map(bytes, x))

    def test_names_of_classes_come_from_the_archive_where_it_has_them(self, upload):
        body = upload(npz(**small(classes=["cat", "dog", "élan", "emu"]))).json
        assert body["classes"] == ["cat", "dog", "élan", "emu"]

    def test_a_thousand_classes_are_taken(self, upload):
        body = upload(npz(x=pixels(2000, 2, 2), y=np.arange(2000) % 1000)).json
        assert len(body["classes"]) == 1000

    def test_a_name_that_is_given_wins_and_may_hold_any_letter(self, upload):
        assert upload((npz(**small()), "x.npz"), fields={"name": "Ziffern, schön"}).json["name"] == "Ziffern, schön"


class TestDescribed:
    def test_counts_mean_deviation_and_samples_are_answered(self, upload, client, arrays, conforms):
        body = upload(zipped(folders(12, "train/") | folders(5, "test/", classes=("cats",)) | folders(2, "test/"))).json
        conforms(body, "Dataset")
        assert body["counts"] == {"train": [12, 12], "test": [5, 2]}
        images = arrays(body)["train_images"] / body["white"]
        assert (body["mean"], body["std"]) == (pytest.approx([images.mean()]), pytest.approx([images.std()]))
        answer = client.get(body["links"]["samples"])
        assert (answer.status_code, answer.mimetype) == (200, "image/png")
        assert Image.open(io.BytesIO(answer.data)).size == (8 * 8 - 2, 2 * 8 - 2)
        again = client.get(body["links"]["samples"], headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304

    def test_an_upload_to_an_earlier_version_has_none_of_these(self, upload, client, services, problem, conforms):
        dataset_id = upload(npz(**small())).json["id"]
        with services.database.write() as session:
            row = view.dataset_store.get(session, dataset_id, None)
            row.facts = {name: value for name, value in row.facts.items() if name != "statistics"}
            row.files = {name: file for name, file in row.files.items() if name != "samples.png"}
        body = client.get(f"/v1/datasets/{dataset_id}").json
        conforms(body, "Dataset")
        assert [body[name] for name in ("counts", "mean", "std")] == [None] * 3
        assert body["links"]["samples"] is None
        detail = problem(client.get(f"/v1/datasets/{dataset_id}/samples.png"), 404, "not_found")["detail"]
        assert "upload it again" in detail

    @pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
    def test_built_in_ones_have_figures_and_those_that_can_be_read_samples(self, client, conforms, problem, name):
        body = client.get(f"/v1/datasets/{name}").json
        conforms(body, "Dataset")
        assert sum(body["counts"]["train"]) == body["train_examples"]
        assert len(body["mean"]) == len(body["std"]) == body["shape"][0]
        answer = client.get(f"/v1/datasets/{name}/samples.png")
        if body["links"]["samples"] is None:
            problem(answer, 404, "not_found")
        else:
            assert (name, answer.mimetype) == ("digits", "image/png")

    def test_samples_that_are_gone_from_the_store_are_not_found(self, upload, client, services, problem):
        body = upload(npz(**small())).json
        with services.database.read() as session:
            folder = view.dataset_store.get(session, body["id"], None).folder
        services.store.remove(f"{folder}/samples.png")
        problem(client.get(body["links"]["samples"]), 404, "not_found")
        problem(client.get("/v1/datasets/ds_0/samples.png"), 404, "not_found")


class TestOnce:
    def test_the_same_upload_with_the_same_fields_is_the_same_dataset(self, upload, settings):
        content = npz(**small())
        first = upload((content, "a.npz"))
        before = lying(settings.state_dir)
        second = upload((content, "b.npz"), fields={"test_fraction": "0.1", "name": "other"})
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json == second.json
        assert lying(settings.state_dir) == before

    def test_other_fields_make_another(self, upload, client):
        content = npz(**small())
        ids = {upload(content, fields=fields).json["id"] for fields in ({}, {"seed": 1}, {"test_fraction": 0.3})}
        assert len(ids) == 3
        listed = client.get("/v1/datasets").json["data"]
        assert {row["id"] for row in listed if row["source"] == "upload"} == ids

    def test_of_two_that_store_the_same_at_once_one_is_kept(self, upload, settings, monkeypatch):
        content, real = npz(**small()), view.dataset_store.take
        upload(content)
        before = lying(settings.state_dir)
        calls = iter([None])  # the first query finds nothing, as if the other upload had not finished
        monkeypatch.setattr(view.dataset_store, "take", lambda *args: next(calls, "no") and real(*args))
        answer = upload(content)
        assert answer.status_code == 200
        assert lying(settings.state_dir) == before


# --- refusals ---------------------------------------------------------------------------------------------------------


def with_link() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in folders().items():
            archive.writestr(name, content)
        link = zipfile.ZipInfo("cats/link.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return file.getvalue()


def lying_header(size: int) -> bytes:
    """A zip whose header declares `size` bytes, and whose member unpacks to more than the limit."""
    content = bytearray(zipped({"x.npy": npy(np.zeros((2 * UNPACKED // 36, 6, 6), np.uint8)), "y.npy": npy(Y)}))
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(magic)
        content[at + offset : at + offset + 4] = struct.pack("<I", size)
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(zipped(folders()))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    return bytes(content)


def png_that_says(width: int, height: int) -> bytes:
    """A PNG with a header and hardly any pixels."""
    content = bytearray(picture(pixels(1, 6, 6)[0]))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def said(shape: tuple[int, ...], kind: str = "'|u1'") -> bytes:
    """An archive whose x has this header, with the pixels of 40 images."""
    return zipped({"x.npy": npy_that_says(shape, kind, b"" if 0 in shape else bytes(1440)), "y.npy": npy(Y)})


def named(code: int) -> bytes:
    """An archive whose third class has the name of a single character with this code."""
    content = bytearray(npz(**small(classes=["a", "b", "c", "d"])))
    at = content.index(struct.pack("<4I", *b"abcd")) + 8
    content[at : at + 4] = struct.pack("<I", code)
    with zipfile.ZipFile(io.BytesIO(npz(**small()))) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    return zipped(files | {"classes.npy": bytes(content[content.rindex(b"\x93NUMPY") : at + 8])})


def nan_at(index: int, value: float) -> Any:
    x = pixels(40, 6, 6).astype(np.float32)
    x[index, 2, 2] = value
    return x


def tar(mode: str) -> bytes:
    """A tar archive of class folders, written with this mode of tarfile."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in folders().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


SPLIT = {
    "x_train": pixels(20, 6, 6),
    "y_train": np.arange(20) % 2,
    "x_test": pixels(4, 6, 6),
    "y_test": np.arange(4) % 2,
}
Y = np.arange(40) % 4
WHOLE_IDX = idx(pixels(20, 6, 6))
BLANK = picture(np.zeros((2, 2), np.uint8))

REFUSED: dict[str, tuple[str, str, bytes]] = {
    # name: code, part of the detail, the file
    "objects": ("object_array", "x contains Python objects", npz(**small(x=np.array([{}] * 40, dtype=object)))),
    "labels of objects": ("object_array", "y contains", npz(**small(y=np.array([0, "a"] * 20, dtype=object)))),
    "too few labels": ("length_mismatch", "39 labels for 40 images", npz(**small(y=Y[:39]))),
    "too few test labels": ("length_mismatch", "y_test", npz(**{**SPLIT, "y_test": np.arange(3) % 2})),
    "NaN": ("not_finite", "x[17]", npz(**small(x=nan_at(17, np.nan)))),
    "infinity": ("not_finite", "x[3]", npz(**small(x=nan_at(3, -np.inf)))),
    "beyond float32": ("not_finite", "x[0]", npz(**small(x=np.full((40, 6, 6), 1e300)))),
    "a negative label": ("bad_labels", "y[5] is -1", npz(**small(y=np.where(np.arange(40) == 5, -1, Y)))),
    "a fractional label": ("bad_labels", "y[1] is 0.5", npz(**small(y=Y / 2))),
    "a label that is NaN": ("bad_labels", "y[0] is nan", npz(**small(y=np.full(40, np.nan)))),
    "labels of text": ("bad_labels", "<U", npz(**small(y=Y.astype(str)))),
    "a gap": ("bad_labels", "label 2", npz(**small(y=np.where(Y == 2, 5, Y)))),
    "a huge label": ("bad_labels", "without a gap", npz(**small(y=np.where(Y == 2, 2**62, Y)))),
    "one-hot labels": ("bad_labels", "one-hot", npz(**small(y=np.eye(4)[Y]))),
    "more classes than names": ("bad_labels", "3 classes", npz(**small(classes=["a", "b", "c"]))),
    "a class for testing alone": ("empty_class", "'2'", npz(**{**SPLIT, "y_test": np.array([0, 1, 2, 2])})),
    "an empty folder": ("empty_class", "'emus'", zipped(folders() | {"emus/": b""})),
    "a folder for testing alone": (
        "empty_class",
        "'emus'",
        zipped(folders(9, "train/") | folders(3, "test/", classes=("cats", "dogs", "emus"))),
    ),
    "nothing but folders": ("empty_class", "no image", zipped({"cats/": b"", "dogs/": b""})),
    "a path upwards": ("unsafe_path", "'cats/../../evil.png'", zipped(folders() | {"cats/../../evil.png": b""})),
    "an absolute path": ("unsafe_path", "'/etc/x.png'", zipped(folders() | {"/etc/x.png": b""})),
    "a path of Windows": ("unsafe_path", "evil", zipped(folders() | {"..\\evil.png": b""})),
    "a drive": ("unsafe_path", "C:", zipped(folders() | {"C:/evil.png": b""})),
    "a link": ("unsafe_path", "cats/link.png", with_link()),
    "an image that is text": (
        "unreadable_image",
        "cats/a.png is not a PNG or JPEG image; leave",
        zipped(folders() | {"cats/a.png": b"not an image"}),
    ),
    "an image cut short": (
        "unreadable_image",
        "dogs/cut.png",
        zipped(folders() | {"dogs/cut.png": picture(pixels(1, 6, 6)[0])[:-30]}),
    ),
    "a GIF": (
        "unreadable_image",
        "cats/a.gif is not a PNG or JPEG",
        zipped(folders() | {"cats/a.gif": picture(pixels(1, 6, 6)[0], "GIF")}),
    ),
    "notes among the images": ("unreadable_image", "cats/a.txt", zipped(folders() | {"cats/a.txt": b"meow"})),
    "a password": ("unreadable_image", "encrypted", encrypted()),
    "two sizes": (
        "size_mismatch",
        "dogs/wide.png: 7x6",
        zipped(folders() | {"dogs/wide.png": picture(pixels(1, 6, 7)[0])}),
    ),
    "a large image": ("image_too_large", "225x6", zipped({"cats/a.png": picture(pixels(1, 6, 225)[0])} | folders())),
    "large arrays": ("image_too_large", "225", npz(**small(x=np.zeros((40, 225, 2), np.uint8)))),
    "a bomb of pixels": (
        "image_too_large",
        "bomb.png",
        zipped({"cats/bomb.png": png_that_says(60_000, 60_000)} | folders()),
    ),
    "flat rows": ("bad_shape", "(40, 36)", npz(**small(x=pixels(40, 36)))),
    "four channels": ("bad_shape", "(40, 6, 6, 4)", npz(**small(x=pixels(40, 6, 6, 4)))),
    "no pixel": ("bad_shape", "without pixels", npz(**small(x=np.zeros((40, 0, 6), np.uint8)))),
    "a single number": ("bad_shape", "()", npz(**small(x=np.uint8(3)))),
    "splits of two shapes": ("bad_shape", "x_test", npz(**{**SPLIT, "x_test": pixels(4, 6, 7)})),
    "negative integers": ("bad_pixels", "from -5", npz(**small(x=pixels(40, 6, 6).astype(int) - 5))),
    "normalised floats": ("bad_pixels", "from -1 to 1; undo", npz(**small(x=pixels(40, 6, 6) / 127.5 - 1))),
    "floats beyond 16 bits": ("bad_pixels", "to 65790; undo", npz(**small(x=pixels(40, 6, 6) * 258.0))),
    "integers beyond 16 bits": ("bad_pixels", "to 65790; undo", npz(**small(x=pixels(40, 6, 6).astype(int) * 258))),
    "complex pixels": ("bad_pixels", "complex", npz(**small(x=np.ones((40, 6, 6), complex)))),
    "one class": ("too_few_classes", "'0'", npz(**small(y=np.zeros(40, int)))),
    "one folder": ("too_few_classes", "'cats'", zipped(folders(classes=("cats",)))),
    "no image at all": ("too_few_classes", "no classes", npz(**small(0))),
    "too many labels": ("too_many_classes", "1001 classes", npz(x=pixels(2002, 2, 2), y=np.arange(2002) % 1001)),
    "too many names": ("too_many_classes", "1001 names", npz(**small(classes=[str(i) for i in range(1001)]))),
    "too many folders": ("too_many_classes", "1001 classes", zipped({f"{i}/1.png": BLANK for i in range(1001)})),
    "too few": ("too_few_examples", "8 and 1", npz(**small(8, 2))),
    "something else": ("unknown_format", "neither", b"hello" * 100),
    "nothing": ("unknown_format", "neither", b""),
    "a gzipped file": ("unknown_format", "'images' and 'labels'", idx(pixels(9, 3, 3), packed=True)),
    "a single array": ("unknown_format", "numpy.savez", b"\x93NUMPY\x01\x00" + bytes(100)),
    "other members": ("unknown_format", "images, labels", npz(images=pixels(9, 3, 3), labels=Y[:9])),
    "half a split": ("unknown_format", "x_train", npz(x_train=pixels(9, 3, 3), y_train=Y[:9])),
    "images without a folder": ("unknown_format", "1.png", zipped(folders() | {"1.png": picture(pixels(1, 6, 6)[0])})),
    "a folder for validation": ("unknown_format", "train, val", zipped(folders(9, "train/") | folders(3, "val/"))),
    "splits under other names": ("unknown_format", "same sub-folders", zipped(folders(9, "a/") | folders(3, "b/"))),
    "an empty zip": ("unknown_format", "no images", zipped({})),
    "a zip in a zip": ("unknown_format", "'x.npz': send that file itself", zipped({"x.npz": npz(**small())})),
    "a tar archive": (
        "unknown_format",
        "is a gzipped tar archive; unpack it and send the folder as a zip",
        tar("w:gz"),
    ),
    "a zip cut short": ("unknown_format", "complete", zipped(folders())[:-100]),
    "a header that is not NumPy's": ("unreadable_file", "x", zipped({"x.npy": b"junk" * 9, "y.npy": b"junk" * 9})),
    "an array cut short": (
        "unreadable_file",
        "x has 1431 bytes",
        zipped({"x.npy": npy(pixels(40, 6, 6))[:-9], "y.npy": npy(Y)}),
    ),
    "a name of hundreds of letters": ("bad_labels", "128", zipped(folders(classes=("a", "b" * 200)))),
    "a name of nothing": ("bad_labels", "0 characters", npz(**small(classes=["a", "b", "", "d"]))),
    "a name with a line break": (
        "bad_labels",
        "'b\\nb', must not contain control",
        npz(**small(classes=["a", "b\nb", "c", "d"])),
    ),
    "a name in two forms": (
        "bad_labels",
        "the name 'é'",
        npz(**small(classes=["a", "é", unicodedata.normalize("NFD", "é"), "d"])),
    ),
    "a name twice": ("bad_labels", "the name 'b'", npz(**small(classes=["a", "b", "b", "d"]))),
    "half a character": ("bad_labels", "U+D800", named(0xD800)),
    "a character that there is not": ("bad_labels", "not in Unicode", named(0xFFFF_FFFF)),
    "a name of five thousand letters": ("bad_labels", "<U5000", npz(**small(classes=["a", "b", "c", "d" * 5000]))),
    "no image, of endless size": ("bad_shape", "x has the shape (0, 1", said((0, 10**30))),
    "no image, of too many pixels": ("bad_shape", "x has the shape (0, 1099", said((0, 2**40, 2**40))),
    "seventy dimensions": ("bad_shape", "x has the shape (1, 1", said((1,) * 70 + (1440,))),
    "a truth value as a size": ("bad_shape", "x has the shape (True", said((True, 36, 40))),
    "a type of nothing": ("unreadable_file", "x is not an array", said((40, 6, 6), "()")),
    "a header that does not end": ("unreadable_file", "x is not an array", said((40, 6, 6), "'|u1' ((")),
}


class TestRefused:
    @pytest.mark.parametrize("why", REFUSED)
    def test_a_file_that_cannot_be_trained_on_is_named_and_leaves_nothing(self, upload, problem, settings, why):
        code, word, content = REFUSED[why]
        before = lying(settings.state_dir)
        body = problem(upload(content), 422, code)
        assert word in body["detail"]
        assert " object at 0x" not in body["detail"]
        assert lying(settings.state_dir) == before

    @pytest.mark.parametrize(
        ("parts", "code", "word"),
        [
            ({"images": WHOLE_IDX, "labels": idx(np.zeros(19, np.uint8))}, "length_mismatch", "labels has 19"),
            ({"images": WHOLE_IDX[:-1], "labels": idx(np.zeros(20, np.uint8))}, "unreadable_file", "images has"),
            (
                {"images": WHOLE_IDX[:9], "labels": idx(np.zeros(20, np.uint8))},
                "unreadable_file",
                "the header of images is truncated",
            ),
            (
                {"images": b"PK\x03\x04" * 9, "labels": idx(np.zeros(20, np.uint8))},
                "unknown_format",
                "images is not an IDX",
            ),
            ({"images": WHOLE_IDX, "labels": b""}, "unknown_format", "labels is not an IDX"),
            ({"images": idx(pixels(20, 6, 6), True)[:-9], "labels": WHOLE_IDX}, "unreadable_file", "images cannot be"),
        ],
    )
    def test_so_is_an_idx_pair(self, upload, problem, settings, parts, code, word):
        before = lying(settings.state_dir)
        assert word in problem(upload(**parts), 422, code)["detail"]
        assert lying(settings.state_dir) == before

    @pytest.mark.parametrize("size", [10, 0xFFFF_FFF0, 2 * UNPACKED])
    def test_real_bytes_are_counted_whatever_the_header_of_a_zip_says(self, upload, settings, size):
        before = lying(settings.state_dir)
        answer = upload(lying_header(size))
        assert (answer.status_code, answer.json["code"]) in [(413, "unpacks_too_large"), (422, "unreadable_file")]
        assert answer.status_code == 413 or size == 10
        assert lying(settings.state_dir) == before

    @pytest.mark.parametrize("part", ["images", "labels"])
    def test_a_gzip_bomb_is_refused(self, upload, problem, settings, part):
        parts = {"images": WHOLE_IDX, "labels": idx(np.zeros(20, np.uint8))}
        parts[part] = idx(np.zeros((UNPACKED, 2), np.uint8), packed=True)
        before = lying(settings.state_dir)
        assert part in problem(upload(**parts), 413, "unpacks_too_large")["detail"]
        assert lying(settings.state_dir) == before

    def test_many_small_images_that_decode_to_too_much_are_refused(self, upload, problem, settings):
        blank = picture(np.zeros((200, 200, 3), np.uint8))
        files = {f"{c}/{i}.png": blank for c in ("a", "b") for i in range(30)}
        before = lying(settings.state_dir)
        problem(upload(zipped(files)), 413, "unpacks_too_large")
        assert lying(settings.state_dir) == before

    @pytest.mark.parametrize(
        ("fields", "pointer", "code"),
        [
            ({"test_fraction": "0"}, "/test_fraction", "greater_than"),
            ({"test_fraction": "1"}, "/test_fraction", "less_than"),
            ({"test_fraction": "nan"}, "/test_fraction", "finite_number"),
            ({"test_fraction": "half"}, "/test_fraction", "float_parsing"),
            ({"seed": "-1"}, "/seed", "greater_than_equal"),
            ({"size": "225"}, "/size", "less_than_equal"),
            ({"size": "28"}, "/size", "conflict"),  # for folders of images only
            ({"white": "0"}, "/white", "greater_than"),
            ({"white": "65536"}, "/white", "less_than_equal"),
            ({"white": "bright"}, "/white", "float_parsing"),
            ({"white": "100"}, "/white", "conflict"),  # less than the highest pixel
            ({"name": "a\x00b"}, "/name", "string_pattern_mismatch"),
            ({"name": ""}, "/name", "string_too_short"),
            ({"name": "x" * 5000}, "/name", "too_long"),
            ({"nmae": "x"}, "/nmae", "extra_forbidden"),
        ],
    )
    def test_a_wrong_field_is_named(self, upload, problem, settings, fields, pointer, code):
        before = lying(settings.state_dir)
        (error,) = problem(upload(npz(**small()), fields=fields), 422, "invalid_upload")["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)
        assert lying(settings.state_dir) == before

    @pytest.mark.parametrize(
        ("train", "test"),
        [
            (lambda x: x, lambda x: x / 255),
            (lambda x: x / 255, lambda x: x),
            (lambda x: x.astype(np.float32), lambda x: x / 255),
            (lambda x: x, lambda x: x > 99),
            (lambda x: x.astype(np.uint16) * 257, lambda x: x),
            (lambda x: x // 16, lambda x: x),
            (lambda x: x // 16, lambda x: x / 255),
        ],
    )
    def test_splits_of_different_scales_are_refused_unless_white_is_declared(self, upload, problem, train, test):
        x, y = pixels(40, 6, 6), np.arange(40) % 4
        content = npz(x_train=train(x), y_train=y, x_test=test(x), y_test=y)
        body = problem(upload(content), 422, "bad_pixels")
        assert "x_train to " in body["detail"]
        assert "x_test to " in body["detail"]
        assert "'white'" in body["detail"]
        assert upload(content, fields={"white": "65535"}).json["white"] == 65_535

    def test_pictures_have_their_own_white(self, upload, problem):
        (error,) = problem(upload(zipped(folders(12)), fields={"white": "255"}), 422, "invalid_upload")["errors"]
        assert (error["pointer"], error["code"]) == ("/white", "conflict")

    @pytest.mark.parametrize("content", [npz(**SPLIT), zipped(folders(9, "train/") | folders(3, "test/"))])
    def test_a_field_that_the_upload_has_no_use_for_is_not_ignored(self, upload, problem, content):
        body = problem(upload(content, fields={"test_fraction": "0.2", "seed": "1"}), 422, "invalid_upload")
        assert [error["pointer"] for error in body["errors"]] == ["/test_fraction", "/seed"]

    @pytest.mark.parametrize(
        ("parts", "pointers"),
        [
            ({}, ["/file"]),
            ({"images": b"x"}, ["/labels"]),
            ({"labels": b"x"}, ["/images"]),
            ({"images": b"x", "labels": b"x", "test_images": b"x"}, ["/test_labels"]),
            ({"test_images": b"x"}, ["/images", "/labels", "/test_labels"]),
            ({"file": b"x", "labels": b"x"}, ["/labels"]),
            ({"data": b"x"}, ["/data"]),
        ],
    )
    def test_incomplete_parts_are_refused(self, upload, problem, settings, parts, pointers):
        before = lying(settings.state_dir)
        body = problem(upload(**parts, fields={"name": "x"}), 422, "invalid_upload")
        assert [error["pointer"] for error in body["errors"]] == pointers
        assert lying(settings.state_dir) == before

    def test_a_body_of_another_kind_is_refused(self, client, problem):
        problem(
            client.post("/v1/datasets", data=npz(**small()), content_type="application/zip"),
            415,
            "unsupported_media_type",
        )
        problem(client.post("/v1/datasets", data=b"x", content_type="multipart/form-data"), 400, "bad_request")

    @pytest.mark.parametrize(
        "body", [b"hello", b"--b\r\n", b"--b\r\nno header\r\n\r\nx\r\n--b--\r\n", b"--b\r\n" + b"x" * 900_000]
    )
    def test_a_body_that_is_not_made_of_parts_is_refused(self, client, problem, settings, body):
        before = lying(settings.state_dir)
        problem(
            client.post("/v1/datasets", data=body, content_type="multipart/form-data; boundary=b"), 400, "bad_request"
        )
        assert lying(settings.state_dir) == before

    def test_a_body_over_the_limit_is_413_though_other_bodies_may_be_a_megabyte_only(self, upload, problem, settings):
        before = lying(settings.state_dir)
        assert "GRADQ_MAX_UPLOAD_BYTES" in problem(upload(bytes(LIMIT + 1)), 413, "payload_too_large")["detail"]
        assert lying(settings.state_dir) == before
        assert upload(bytes(LIMIT - 1000)).json["code"] == "unknown_format"

    def test_an_error_in_the_middle_leaves_no_files(self, upload, problem, settings, services, monkeypatch):
        def fail(*_):
            raise RuntimeError("disk on fire")

        upload(npz(**small(44)))  # the folder of datasets exists
        before = lying(settings.state_dir)
        monkeypatch.setattr(view.dataset_store, "add", fail)
        problem(upload(npz(**small())), 500, "internal_error")
        assert lying(settings.state_dir) == before

    def test_a_write_with_an_unknown_outcome_keeps_its_files(self, upload, problem, settings, services, monkeypatch):
        real = view.dataset_store.add

        def away(*_):
            raise DatabaseAway("gone")

        def add(*args):
            real(*args)
            monkeypatch.setattr(view.dataset_store, "find", away)
            raise DatabaseAway("gone")

        monkeypatch.setattr(view.dataset_store, "add", add)
        problem(upload(npz(**small())), 503, "database_away")
        assert [path.name for path in (settings.state_dir / "artifacts").rglob("*.npy")]
        assert not settings.uploads_dir.exists()

    def test_what_a_killed_process_left_goes_with_the_next_upload(self, upload, settings):
        left = settings.uploads_dir / "0123"
        left.mkdir(parents=True)
        (left / ".lock").touch()
        (left / "file.part").write_bytes(bytes(100))
        assert upload(npz(**small())).status_code == 201
        assert not settings.uploads_dir.exists()


class TestOverASocket:
    """A real server, since a test client can neither send chunks nor disconnect."""

    @pytest.fixture
    def address(self, app):
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield ("127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()
        server.server_close()

    HEAD = b"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n'

    def send(self, address, *pieces: bytes) -> bytes:
        with socket.create_connection(address, timeout=20) as connection:
            for piece in pieces:
                connection.sendall(piece)
            answer = b""
            while chunk := connection.recv(65_536):
                answer += chunk
        return answer

    def chunked(self, content: bytes, step: int = 60_000) -> list[bytes]:
        pieces = [content[i : i + step] for i in range(0, len(content), step)]
        return [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]

    def test_a_body_in_chunks_is_taken(self, address, settings):
        body = self.PART + npz(**small()) + b"\r\n--b--\r\n"
        answer = self.send(
            address, self.HEAD, b"Transfer-Encoding: chunked\r\n\r\n", *self.chunked(body, 1000), b"0\r\n\r\n"
        )
        assert b" 201 " in answer.splitlines()[0]

    def test_a_body_in_chunks_over_the_limit_is_refused_while_it_comes(self, address, settings):
        before = lying(settings.state_dir)
        body = self.PART + bytes(LIMIT + 1) + b"\r\n--b--\r\n"
        answer = self.send(address, self.HEAD, b"Transfer-Encoding: chunked\r\n\r\n", *self.chunked(body), b"0\r\n\r\n")
        assert b" 413 " in answer.splitlines()[0]
        assert b'"payload_too_large"' in answer
        assert lying(settings.state_dir) == before

    @pytest.mark.parametrize("how", ["Content-Length: 2000000", "Transfer-Encoding: chunked"])
    def test_a_client_that_disconnects_in_the_middle_leaves_no_files(self, address, settings, how):
        before = lying(settings.state_dir)
        body = self.PART + os.urandom(1_000_000)
        pieces = [body] if "Length" in how else self.chunked(body)
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(self.HEAD + how.encode() + b"\r\n\r\n")
            for piece in pieces:
                connection.sendall(piece)
            wait_for(lambda: list(settings.uploads_dir.glob("*/file.part")), 30, "the upload to begin")
        wait_for(lambda: lying(settings.state_dir) == before, 30, "the upload to be gone")


class TestUse:
    def test_a_job_with_it_is_validated_against_it(self, upload, hands, client, problem):
        dataset = upload(zipped(folders(12))).json
        job = hands.submit(dataset=dataset["id"])
        assert job["spec"]["dataset"] == dataset["id"]
        wrong = {"dataset": dataset["id"], "architecture": {"type": "cnn", "channels": [4, 4, 4]}}
        (error,) = problem(client.post("/v1/jobs", json=wrong), 422, "invalid_spec")["errors"]
        assert error["pointer"] == "/architecture/channels"
        assert "6 pixels wide" in error["detail"]

    @pytest.mark.parametrize("name", ["ds_" + "0" * 32, "ds_\x00", "ds_", "pets"])
    def test_a_job_for_one_that_is_not_there_is_refused(self, client, problem, name):
        (error,) = problem(client.post("/v1/jobs", json={"dataset": name}), 422, "invalid_spec")["errors"]
        assert (error["pointer"], error["code"]) == ("/dataset", "not_found")

    def test_it_cannot_be_deleted_while_a_job_needs_it(self, upload, hands, client, problem, settings, conforms):
        dataset = upload(npz(**small())).json
        path = f"/v1/datasets/{dataset['id']}"
        job = hands.submit(dataset=dataset["id"])
        body = problem(client.delete(path), 409, "dataset_in_use")
        assert body["jobs"] == [job["id"]]
        lease = hands.start()
        problem(client.delete(path), 409, "dataset_in_use")
        hands.finish(lease, JobState.SUCCEEDED)
        stored = sum(file.stat().st_size for file in (settings.state_dir / "artifacts").rglob("*") if file.is_file())
        answer = client.delete(path)
        assert answer.status_code == 200
        conforms(answer.json, "DeletedDataset")
        assert answer.json == {"object": "dataset", "id": dataset["id"], "deleted": True, "freed_bytes": stored}
        assert not [file for file in (settings.state_dir / "artifacts").rglob("*") if file.is_file()]
        problem(client.get(path), 404, "not_found")
        problem(client.delete(path), 404, "not_found")

    def test_a_built_in_one_is_shown_by_its_name_and_cannot_be_deleted(self, client, problem, conforms):
        body = client.get("/v1/datasets/cifar10").json
        conforms(body, "Dataset")
        assert (body["id"], body["source"], body["shape"]) == ("cifar10", "builtin", [3, 32, 32])
        problem(client.delete("/v1/datasets/cifar10"), 403, "forbidden")
        problem(client.get("/v1/datasets/cifar100"), 404, "not_found")

    def test_one_deleted_between_the_check_and_the_job_is_not_found(self, upload, client, problem, monkeypatch):
        dataset = upload(npz(**small())).json
        real = view.dataset_store.lock_for_job

        def delete_then_lock(session, name, visible_to):
            view.dataset_store.remove(session, name)
            real(session, name, visible_to)

        monkeypatch.setattr(view.dataset_store, "lock_for_job", delete_then_lock)
        problem(client.post("/v1/jobs", json={"dataset": dataset["id"]}), 422, "invalid_spec")

    def test_the_document_describes_the_form(self, client):
        document = client.get("/v1/openapi.json").json
        content = document["paths"]["/v1/datasets"]["post"]["requestBody"]["content"]
        assert content == {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/DatasetUpload"}}}
        properties = document["components"]["schemas"]["DatasetUpload"]["properties"]
        assert {"file", "images", "labels", "test_images", "test_labels", "name", "size", "seed"} < set(properties)
        assert properties["file"]["anyOf"][0]["format"] == "binary"
