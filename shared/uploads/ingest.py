"""The way of an upload: which format it is, what it holds, whether that can be trained on; then the stored form.

The stored form is four .npy files, train and test images (N,C,H,W) and their labels (N) int64, and the facts as JSON.
They are written through maps, a chunk at a time, so a data set may be larger than memory.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shared.datasets import ARRAYS, FACTS, DatasetInfo
from shared.errors import FieldError, InvalidUpload, UnusableUpload
from shared.uploads import archive as zips
from shared.uploads import folders, idx, labels, npz, pixels
from shared.uploads.budget import GZIP_MAGIC, Budget, gunzipped
from shared.uploads.fields import UploadFields
from shared.uploads.pixels import Array

FILE, PAIR, TEST_PAIR = "file", ("images", "labels"), ("test_images", "test_labels")
PARTS = (FILE, *PAIR, *TEST_PAIR)


def check_parts(parts: Mapping[str, object]) -> None:
    """Either one file, or images with labels, and perhaps a pair of each for testing."""
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
) -> tuple[str, DatasetInfo]:
    """Write the stored form into the folder `target`; return the format it came in, and the facts.

    Raises UnusableUpload or InvalidUpload. What lies in `target` then is the caller's to throw away.
    """
    budget = Budget(limit)
    scratch = target / "unpacked"
    scratch.mkdir(parents=True)
    try:
        if FILE not in parts:
            came_as, info = "idx", _idx_pair(parts, fields, name, target, scratch, budget)
        elif not zipfile.is_zipfile(parts[FILE]):
            raise UnusableUpload("unknown_format", _what_it_is(parts[FILE]))
        else:
            with zips.opened(parts[FILE]) as archive:
                if npz.is_npz(archive):
                    came_as = "npz"
                    info = _npz(npz.read(archive, scratch, budget), fields, name, target, budget)
                else:
                    came_as, info = "folders", _folders(archive, fields, name, target, budget)
    finally:
        shutil.rmtree(scratch)
    (target / FACTS).write_text(json.dumps(info.to_json(), indent=2, ensure_ascii=False) + "\n")
    return came_as, info


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start[:2] == GZIP_MAGIC or idx.looks_like(path):
        return "'file' is gzip or IDX; send IDX files, plain or gzipped, as 'images' and 'labels'"
    if start[:6] == b"\x93NUMPY":
        return "'file' is a single .npy array; save images and labels together with numpy.savez"
    return "'file' is neither a .npz nor a zip of class folders; is it whole?"


def _npz(arrays: dict[str, Array], fields: UploadFields, name: str, target: Path, budget: Budget) -> DatasetInfo:
    names = npz.class_names(arrays.pop(npz.NAMES)) if npz.NAMES in arrays else None
    if "x" in arrays:
        return _arrays({"x": arrays["x"]}, {"x": ("y", arrays["y"])}, names, fields, name, target, budget)
    images = {key: arrays[key] for key in ("x_train", "x_test")}
    given = {"x_train": ("y_train", arrays["y_train"]), "x_test": ("y_test", arrays["y_test"])}
    return _arrays(images, given, names, fields, name, target, budget)


def _idx_pair(
    parts: Mapping[str, Path], fields: UploadFields, name: str, target: Path, scratch: Path, budget: Budget
) -> DatasetInfo:
    def read(part: str) -> Array:
        return idx.read(gunzipped(parts[part], scratch / part, budget, part), part)

    images = {part: read(part) for part in ("images", "test_images") if part in parts}
    given = {part: (other, read(other)) for part, other in (PAIR, TEST_PAIR) if part in parts}
    return _arrays(images, given, None, fields, name, target, budget)


def _arrays(
    images: dict[str, Array],
    given: dict[str, tuple[str, Array]],
    names: list[str] | None,
    fields: UploadFields,
    name: str,
    target: Path,
    budget: Budget,
) -> DatasetInfo:
    """Images and their labels by name: of one split, which is then divided, or of two."""
    fields.refuse(("size",), "resizes the images of a zip of folders; arrays are taken as they are")
    images = {key: pixels.as_nchw(array, key) for key, array in images.items()}
    numbers = {key: labels.as_labels(array, label, len(images[key])) for key, (label, array) in given.items()}
    (first, train), *rest = images.items()
    shape = (train.shape[1], train.shape[2], train.shape[3])
    for key, array in rest:
        if array.shape[1:] != shape:
            detail = f"{key} has images of {array.shape[1:]}, {first} of {shape}; both splits need the same"
            raise UnusableUpload("bad_shape", detail)
    sources: tuple[tuple[Array, Array | None], tuple[Array, Array | None]]
    if rest:
        why = "the upload has a test split of its own; leave the field out"
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
    scale = pixels.examine(images)
    for (array, indices), file in zip(sources, (ARRAYS[0], ARRAYS[2]), strict=True):
        pixels.copy(array, indices, target / file, scale, budget)
    return _facts(name, shape, classes, (train_labels, test_labels), scale, target)


def _folders(archive: zipfile.ZipFile, fields: UploadFields, name: str, target: Path, budget: Budget) -> DatasetInfo:
    classes, shape, numbers = folders.read(archive, fields, target, budget)
    return _facts(name, shape, tuple(classes), numbers, folders.SCALE, target)


def _facts(
    name: str,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    numbers: tuple[Array, Array],
    scale: pixels.Scale,
    target: Path,
) -> DatasetInfo:
    for file, values in zip((ARRAYS[1], ARRAYS[3]), numbers, strict=True):
        np.save(target / file, values, allow_pickle=False)
    channels, height, width = shape
    train, test = (len(values) for values in numbers)
    colour = "grey" if channels == 1 else "colour"
    return DatasetInfo(
        name=name,
        description=f"{width}x{height} {colour} images, {len(classes)} classes ({train} train, {test} test)",
        shape=shape,
        classes=classes,
        train_examples=train,
        test_examples=test,
        dtype=scale.dtype,
        white=scale.white,
        source="upload",
    )
