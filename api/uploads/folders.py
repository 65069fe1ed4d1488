"""Reads the images of a zip with one folder per class, PNG and JPEG; `layout.py` has what the folders mean."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from api.uploads import labels as classes
from api.uploads.archive import entry_stream, user_entries
from api.uploads.budget import Budget
from api.uploads.fields import MAX_SIDE, UploadFields
from api.uploads.file_types import describe_contents
from api.uploads.layout import Layout, layout
from api.uploads.pixels import Array, Scale, create
from shared.datasets.catalog import ARRAYS
from shared.errors import UnusableUpload

FORMATS = ("PNG", "JPEG")
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
MAX_FILE_BYTES = 64 << 20
MAX_SOURCE_PIXELS = 1 << 24  # of an image that is resized: 4096x4096, far below Pillow's limit for bombs
SCALE = Scale("uint8", 255.0)


def read(
    archive: zipfile.ZipFile, fields: UploadFields, folder: Path, budget: Budget
) -> tuple[Layout, tuple[int, int, int], tuple[Array, Array]]:
    """Decode all images into the stored arrays in `folder`; return the layout, the image shape (C,H,W), and the labels
    (N) of the train and the test split. Raises UnusableUpload and InvalidUpload."""
    found = layout(archive)
    if not found.pictures:
        names = ["/".join(parts) for parts, entry in user_entries(archive) if not entry.is_dir()]
        there = f"Folders: {found.classes}" if found.classes else describe_contents(names)
        detail = f"the zip has no images; put PNG or JPEG files into one folder per class. {there}".rstrip()
        raise UnusableUpload("empty_class" if found.classes else "unknown_format", detail)
    every = np.array([picture.label for picture in found.pictures], dtype=np.int64)
    if found.split:
        fields.refuse(("test_fraction", "seed"), "the upload has its own test folder; leave the field out")
        is_test = np.array([picture.held_out for picture in found.pictures])
        train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
        classes.check_classes(every[train], every[test], found.classes)
    else:
        classes.check_classes(every, None, found.classes)
        train, test = classes.split(every, fields.test_fraction, fields.seed)
        classes.check_classes(every[train], every[test], found.classes)
    classes.check_sizes(len(train), len(test))
    splits = {ARRAYS[0]: train, ARRAYS[2]: test}
    entries = [picture.entry for picture in found.pictures]
    try:
        shape = _decode(archive, entries, splits, fields.size, folder, budget, colour=False)
    except _Colour:
        shape = _decode(archive, entries, splits, fields.size, folder, budget, colour=True)
    return found, shape, (every[train], every[test])


class _Colour(Exception):
    """Raised for a colour image after grey ones: all images then need three channels."""


def _decode(
    archive: zipfile.ZipFile,
    entries: list[zipfile.ZipInfo],
    splits: dict[str, Array],
    size: int | None,
    folder: Path,
    budget: Budget,
    colour: bool,
) -> tuple[int, int, int]:
    first = _image(archive, entries[0], size, budget, colour, None)
    shape = (3 if colour else 1, *first.shape[:2])
    places: list[tuple[Array, int]] = [(first, 0)] * len(entries)
    before = budget.spent
    for name, indices in splits.items():
        target = create(folder / name, len(indices), shape, SCALE, budget)
        for position, index in enumerate(indices):
            places[index] = (target, position)
    try:
        for entry, (target, position) in zip(entries, places, strict=True):
            image = _image(archive, entry, size, budget, colour, (shape[2], shape[1]))
            target[position] = image.transpose(2, 0, 1) if colour else image
    except _Colour:
        budget.spent = before  # the arrays written so far are overwritten
        raise
    return shape


def _image(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    size: int | None,
    budget: Budget,
    colour: bool,
    like: tuple[int, int] | None,
) -> Array:
    """One image as (H,W) or (H,W,3) uint8. `like`: (width, height) of the previous images. Raises UnusableUpload."""
    name = entry.filename
    with entry_stream(archive, entry, "unreadable_image") as stream:
        raw = stream.read(MAX_FILE_BYTES + 1)
    budget.spend(len(raw), name)
    if len(raw) > MAX_FILE_BYTES:
        raise UnusableUpload("image_too_large", f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB", name=name)
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            _check_size(name, image.size, size, like)
            if not colour and image.mode not in GREY:
                raise _Colour
            return _pixels(image, size, colour)
    except (UnusableUpload, _Colour):
        raise
    except Image.DecompressionBombError as error:
        raise UnusableUpload("image_too_large", f"{name}: {error}", name=name) from error
    except UnidentifiedImageError as error:  # its message contains the address of an object
        detail = f"{name} is not a PNG or JPEG image; leave it out or save it again"
        raise UnusableUpload("unreadable_image", detail, name=name) from error
    except Exception as error:  # Pillow's decoders raise exceptions of many types
        detail = f"{name} cannot be read as PNG or JPEG: {error}; leave it out or save it again"
        raise UnusableUpload("unreadable_image", detail, name=name) from error


def _check_size(name: str, found: tuple[int, int], size: int | None, like: tuple[int, int] | None) -> None:
    """Check the size in the header, before decoding. Raises UnusableUpload."""
    width, height = found
    if size is not None:
        if width * height > MAX_SOURCE_PIXELS:
            detail = f"{name}: {width}x{height} is more than {MAX_SOURCE_PIXELS} pixels; make it smaller first"
            raise UnusableUpload("image_too_large", detail, name=name)
        return
    if max(found) > MAX_SIDE:
        detail = (
            f"{name}: {width}x{height} pixels; at most {MAX_SIDE}x{MAX_SIDE} are accepted; 'size' resizes all images"
        )
        raise UnusableUpload("image_too_large", detail, name=name)
    if like is not None and found != like:
        detail = f"{name}: {width}x{height} pixels, previous images {like[0]}x{like[1]}. 'size' resizes all images"
        raise UnusableUpload("size_mismatch", detail, name=name)


def _pixels(image: Image.Image, size: int | None, colour: bool) -> Array:
    if image.mode.startswith("I"):  # 16-bit: Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65_535) // 257).astype(np.uint8))
    mode = "RGB" if colour else "L"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)
