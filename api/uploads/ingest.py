"""Ingests an upload: detects its format, validates its contents and writes the stored form.

The stored form is four .npy files, train and test images (N,C,H,W) and their labels (N) int64, a JSON description and
a picture of samples.
The images are written through memory maps in chunks, so a dataset may be larger than memory.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from api.uploads import archive as zips
from api.uploads import contrast, file_types, folders, idx, labels, npz, pixels, samples, statistics
from api.uploads.budget import Budget, gunzipped
from api.uploads.fields import UploadFields
from api.uploads.pixels import Array
from shared.datasets.catalog import ARRAYS, FACTS, DatasetInfo
from shared.errors import FieldError, InvalidUpload, UnusableUpload

FILE, PAIR, TEST_PAIR = "file", ("images", "labels"), ("test_images", "test_labels")
PARTS = (FILE, *PAIR, *TEST_PAIR)


def check_parts(parts: Mapping[str, object]) -> None:
    """Require either `file`, or `images` and `labels` and optionally a pair for testing. Raises InvalidUpload."""
    pairs = set(parts) - {FILE}
    if FILE in parts and not pairs:
        return
    if FILE in parts:
        wrong = [FieldError(f"/{name}", "conflict", "send either 'file', or 'images' and 'labels'") for name in pairs]
    elif not parts:
        wrong = [FieldError("/file", "missing", "send a .npz or a zip as 'file', or an IDX pair as 'images', 'labels'")]
    else:
        needed = [*PAIR, *(TEST_PAIR if pairs & set(TEST_PAIR) else ())]
        wrong = [
            FieldError(f"/{name}", "missing", "each pair needs both parts") for name in needed if name not in parts
        ]
    if wrong:
        raise InvalidUpload(sorted(wrong, key=lambda error: error.pointer))


def ingest(
    parts: Mapping[str, Path], fields: UploadFields, name: str, target: Path, limit: int
) -> tuple[DatasetInfo, dict[str, Any]]:
    """Write the stored form into the folder `target`; return the dataset's description, and the options it was read
    with.

    `limit`: bytes that may be unpacked. Raises UnusableUpload or InvalidUpload; the caller then deletes `target`.
    """
    budget = Budget(limit)
    scratch = target / "unpacked"
    scratch.mkdir(parents=True)
    try:
        format, content = _read(parts, fields, target, scratch, budget)
    finally:
        shutil.rmtree(scratch)
    info = _described(content, name, target)
    for file, numbers in zip((ARRAYS[1], ARRAYS[3]), content.labels, strict=True):
        np.save(target / file, numbers, allow_pickle=False)
    (target / FACTS).write_text(json.dumps(info.to_json(), indent=2, ensure_ascii=False) + "\n")
    drawn = {} if content.own_split else {"test_fraction": fields.test_fraction, "seed": fields.seed}
    given = {name: value for name in ("size", "white") if (value := getattr(fields, name)) is not None}
    return info, {"format": format, **drawn, **given}


@dataclass(frozen=True)
class Content:
    """The contents of an upload, whose images have been written."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    labels: tuple[Array, Array]  # of the train and the test split
    scale: pixels.Scale
    own_split: bool
    warnings: tuple[str, ...] = ()

    def facts(self, name: str, doubts: tuple[str, ...]) -> DatasetInfo:
        channels, height, width = self.shape
        train, test = (len(numbers) for numbers in self.labels)
        colour = "grey" if channels == 1 else "colour"
        return DatasetInfo(
            name=name,
            description=f"{width}x{height} {colour} images, {len(self.classes)} classes ({train} train, {test} test)",
            shape=self.shape,
            classes=self.classes,
            train_examples=train,
            test_examples=test,
            dtype=self.scale.dtype,
            white=self.scale.white,
            white_reason=self.scale.reason,
            warnings=(*self.scale.warnings, *self.warnings, *doubts),
            source="upload",
        )


def _described(content: Content, name: str, target: Path) -> DatasetInfo:
    """The description with the statistics of the stored images; writes the sheet of samples next to these."""
    images, (train, test) = np.load(target / ARRAYS[0], mmap_mode="r"), content.labels
    samples.write(target, images, train, len(content.classes), content.scale.white)
    found = statistics.measure(images, train, test, len(content.classes), content.scale.white)
    doubts = contrast.warnings(images, train, content.classes, content.scale.white, found)
    return replace(content.facts(name, doubts), statistics=found)


def _read(
    parts: Mapping[str, Path], fields: UploadFields, target: Path, scratch: Path, budget: Budget
) -> tuple[str, Content]:
    if FILE not in parts:
        return "idx", _idx_pair(parts, fields, target, scratch, budget)
    if not zipfile.is_zipfile(parts[FILE]):
        raise UnusableUpload("unknown_format", file_types.describe(parts[FILE]))
    with zips.opened(parts[FILE]) as archive:
        if npz.is_npz(archive):
            return "npz", _npz(npz.read(archive, scratch, budget), fields, target, budget)
        read = folders.read(archive, fields, target, budget)
        found = read.layout
        return "folders", Content(tuple(found.classes), read.shape, read.labels, read.scale, found.split, read.warnings)


def _npz(arrays: dict[str, Array], fields: UploadFields, target: Path, budget: Budget) -> Content:
    names = npz.class_names(arrays.pop(npz.NAMES)) if npz.NAMES in arrays else None
    if "x" in arrays:
        return _arrays({"x": arrays["x"]}, {"x": ("y", arrays["y"])}, names, fields, target, budget)
    images = {key: arrays[key] for key in ("x_train", "x_test")}
    given = {"x_train": ("y_train", arrays["y_train"]), "x_test": ("y_test", arrays["y_test"])}
    return _arrays(images, given, names, fields, target, budget)


def _idx_pair(parts: Mapping[str, Path], fields: UploadFields, target: Path, scratch: Path, budget: Budget) -> Content:
    def read(part: str) -> Array:
        path = gunzipped(parts[part], scratch / part, budget, part)
        if not idx.looks_like(path):
            raise UnusableUpload("unknown_format", file_types.describe_pair(path, part))
        return idx.read(path, part)

    images = {part: read(part) for part in ("images", "test_images") if part in parts}
    given = {part: (other, read(other)) for part, other in (PAIR, TEST_PAIR) if part in parts}
    return _arrays(images, given, None, fields, target, budget)


def _arrays(
    images: dict[str, Array],
    given: dict[str, tuple[str, Array]],
    names: list[str] | None,
    fields: UploadFields,
    target: Path,
    budget: Budget,
) -> Content:
    """Store images, given with their labels by name: of one split, which is then divided, or of two."""
    fields.refuse(("size",), "applies to a zip of folders only; arrays are not resized")
    images = {key: pixels.as_nchw(array, key) for key, array in images.items()}
    numbers = {key: labels.as_labels(array, label, len(images[key])) for key, (label, array) in given.items()}
    (first, train), *rest = images.items()
    shape = (train.shape[1], train.shape[2], train.shape[3])
    for key, array in rest:
        if array.shape[1:] != shape:
            detail = f"{key} has images of shape {array.shape[1:]}, {first} of {shape}; both splits need the same"
            raise UnusableUpload("bad_shape", detail)
    sources: tuple[tuple[Array, Array | None], tuple[Array, Array | None]]
    if rest:
        why = "the upload has its own test split; leave the field out"
        fields.refuse(("test_fraction", "seed"), why)
        ((other, test),) = rest
        classes = labels.check_classes(numbers[first], numbers[other], names)
        train_labels, test_labels = numbers[first], numbers[other]
        sources = ((train, None), (test, None))
    else:
        labels.check_classes(numbers[first], None, names)
        chosen, held_out = labels.split(numbers[first], fields.test_fraction, fields.seed)
        train_labels, test_labels = numbers[first][chosen], numbers[first][held_out]
        classes = labels.check_classes(train_labels, test_labels, names)
        sources = ((train, chosen), (train, held_out))
    labels.check_sizes(len(train_labels), len(test_labels))
    scale = pixels.examine(images, fields.white)
    for (array, indices), file in zip(sources, (ARRAYS[0], ARRAYS[2]), strict=True):
        pixels.copy(array, indices, target / file, scale, budget)
    return Content(classes, shape, (train_labels, test_labels), scale, own_split=bool(rest))
