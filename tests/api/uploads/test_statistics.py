"""Counts per class, mean, deviation and sample images of a dataset, and that training measures the same."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.images import idx, pixels

from api.uploads import pixels as stored_pixels
from api.uploads.built_in_samples import READ, built_in_sheet
from api.uploads.samples import BACKGROUND, COLUMNS, GAP, MAX_ROWS, MAX_TILE, sheet
from api.uploads.statistics import measure
from shared.datasets.catalog import DATASETS
from shared.errors import NotFound
from worker.trainer.data import built_in, normalization

LABELS = np.arange(50) % 3


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "factor", "white"),
    [
        (np.uint8, 1, 255),
        (np.uint8, 1 / 16, 15),
        (np.float32, 1 / 255, 1),
        (np.float32, 257, 65_535),
        (np.float32, 1, 255),
    ],
)
def test_mean_and_deviation_are_those_that_training_uses(channels, dtype, factor, white, monkeypatch):
    monkeypatch.setattr(stored_pixels, "CHUNK_BYTES", 1000)  # several chunks
    images = (pixels(50, channels, 7, 5) * float(factor)).astype(dtype)
    found = measure(images, LABELS, LABELS[:9], 3, white)
    used = normalization.measure(torch.from_numpy(images), float(white))
    assert found["mean"] == pytest.approx(used.mean, rel=1e-9)
    assert found["std"] == pytest.approx(used.std, rel=1e-9)
    assert found["counts"] == {"train": [17, 17, 16], "test": [3, 3, 3]}


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_channel_with_one_value_has_the_deviation_0(value):
    for dtype in (np.uint8, np.float32):
        found = measure(np.full((10, 1, 4, 4), value, dtype), LABELS[:10], LABELS[:3], 3, 255)
        assert found["mean"] == pytest.approx([value / 255])
        assert found["std"] == pytest.approx([0], abs=1e-9)


def test_a_class_without_test_images_counts_0():
    assert measure(pixels(9, 1, 2, 2), LABELS[:9], np.array([0]), 3, 255)["counts"]["test"] == [1, 0, 0]


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_the_figures_of_built_in_datasets_are_measured(name, request):
    folder = request.getfixturevalue("mnist_dir") if name == "mnist" else Path("nowhere")
    info = DATASETS[name]
    loaded = built_in.load(info, folder, False)
    used = normalization.measure(loaded.train_images, loaded.white)
    assert info.statistics == {
        "counts": {"train": loaded.train_labels.bincount().tolist(), "test": loaded.test_labels.bincount().tolist()},
        "mean": [round(value, 4) for value in used.mean],
        "std": [round(value, 4) for value in used.std],
    }


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_the_figures_of_built_in_datasets_fit_their_sizes(info):
    assert info.statistics is not None
    counts = info.statistics["counts"]
    assert (sum(counts["train"]), sum(counts["test"])) == (info.train_examples, info.test_examples)
    assert len(counts["train"]) == len(counts["test"]) == len(info.classes)
    assert len(info.statistics["mean"]) == len(info.statistics["std"]) == info.shape[0]


# --- sample images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("white", [1, 15, 255, 65_535])
def test_the_sheet_has_a_row_of_images_per_class(channels, white):
    images = np.zeros((50, channels, 5, 6), np.float32)
    images[:, 0] = (LABELS * white / 2)[:, None, None]  # black, half and white
    picture = opened(sheet(images, LABELS, 3, white))
    assert picture.mode == ("L" if channels == 1 else "RGB")
    assert picture.size == (COLUMNS * (6 + GAP) - GAP, 3 * (5 + GAP) - GAP)
    values = np.asarray(picture.convert("RGB"))[..., 0]
    assert [values[row * (5 + GAP) + 2, 3] for row in range(3)] == [0, 128, 255]
    assert values[5, 0] == BACKGROUND


def test_a_class_with_few_images_leaves_room():
    values = np.asarray(opened(sheet(np.zeros((3, 1, 4, 4), np.uint8), np.array([0, 0, 1]), 2, 255)))
    assert values[0, 4 + GAP] == 0
    assert values[0, 2 * (4 + GAP)] == values[4 + GAP, 4 + GAP] == BACKGROUND


def test_large_images_are_reduced_and_of_many_classes_the_first_are_shown():
    images = np.full((30, 3, 100, 200), 200, np.uint8)
    picture = opened(sheet(images, np.arange(30), 30, 255))
    assert picture.size == (COLUMNS * (MAX_TILE + GAP) - GAP, MAX_ROWS * (MAX_TILE // 2 + GAP) - GAP)
    assert picture.getpixel((3, 3)) == (200, 200, 200)


def test_digits_have_a_sheet_without_files():
    assert opened(built_in_sheet(DATASETS["digits"], Path("nowhere"))).size == (8 * 10 - 2, 10 * 10 - 2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_idx_files_have_one_plain_and_gzipped(tmp_path, name, packed):
    info, n = DATASETS[name], READ + 5
    folder = tmp_path / (info.folder or "")
    folder.mkdir(parents=True)
    contents = {info.files[0]: idx(pixels(n, 28, 28)), info.files[1]: idx((np.arange(n) % 10).astype(np.uint8))}
    contents |= dict.fromkeys(info.files[2:], b"")
    for file, content in contents.items():
        (folder / (file + ".gz" if packed else file)).write_bytes(gzip.compress(content) if packed else content)
    assert info.has_samples(tmp_path)
    picture = opened(built_in_sheet(info, tmp_path))
    assert picture.size == (8 * 30 - 2, 10 * 30 - 2)
    assert np.array_equal(np.asarray(picture)[:28, :28], pixels(n, 28, 28)[0])


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_dataset_without_files_or_of_pickles_has_none(tmp_path, name):
    assert not DATASETS[name].has_samples(tmp_path)
    with pytest.raises(NotFound, match="no sample images"):
        built_in_sheet(DATASETS[name], tmp_path)


def test_damaged_files_are_told(tmp_path):
    info = DATASETS["mnist"]
    folder = tmp_path / (info.folder or "")
    folder.mkdir(parents=True)
    for file in info.files:
        (folder / file).write_bytes(b"short")
    with pytest.raises(NotFound, match="cannot be read"):
        built_in_sheet(info, tmp_path)
