"""Reads the images of a zip with one folder per class, PNG and JPEG; `layout.py` has what the folders mean."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from api.uploads import labels as classes
from api.uploads.archive import entry_stream, user_entries
from api.uploads.budget import Budget
from api.uploads.fields import MAX_SIDE, UploadFields
from api.uploads.file_types import describe_contents
from api.uploads.layout import Layout, layout
from api.uploads.pictures import decode
from api.uploads.pixels import DIM, Array, Scale, create, dim
from shared import inference
from shared.datasets.catalog import ARRAYS
from shared.errors import UnusableUpload
from shared.plain_text import escaped

MAX_FILE_BYTES = 64 << 20
MAX_SOURCE_PIXELS = 1 << 24  # of an image that is resized: 4096x4096, far below Pillow's limit for bombs


@dataclass(frozen=True)
class Read:
    """The layout of a zip, its images' shape (C,H,W), the labels (N) of the train and the test split, the scale of the
    stored pixels, and what was lost."""

    layout: Layout
    shape: tuple[int, int, int]
    labels: tuple[Array, Array]
    scale: Scale
    warnings: tuple[str, ...]


def read(archive: zipfile.ZipFile, fields: UploadFields, folder: Path, budget: Budget) -> Read:
    """Decode all images into the stored arrays in `folder`. Raises UnusableUpload and InvalidUpload."""
    fields.refuse(("white",), "applies to arrays only; pictures have their own white")
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
    form = Form(colour=False, deep=False)
    while True:
        try:
            decoded = _decode(archive, entries, splits, fields.size, folder, budget, form)
            break
        except _Richer as richer:  # at most twice
            form = richer.form
    warnings = _check_empty(found, entries, decoded.empty)
    if decoded.brightest < DIM * form.scale.white:
        remedy = "if they are, scale the pictures so that white is their highest value, or upload them as arrays"
        warnings += (f"{dim(decoded.brightest, form.scale.white)}; {remedy} with 'white'",)
    return Read(found, decoded.shape, (every[train], every[test]), form.scale, warnings)


@dataclass(frozen=True)
class Decoded:
    """Of all images: their shape (C,H,W), the indices of those that are empty although what they were made of is not,
    and the highest pixel."""

    shape: tuple[int, int, int]
    empty: list[int]
    brightest: float


@dataclass(frozen=True)
class Form:
    """What all images are stored as: in colour if one is, with 16 bits if one has them."""

    colour: bool
    deep: bool

    @property
    def channels(self) -> int:
        return 3 if self.colour else 1

    @property
    def scale(self) -> Scale:
        if self.deep:
            return Scale("float32", 65_535.0, "the zip has pictures with 16 bits, whose white is 65535")
        return Scale("uint8", 255.0, "the pictures have 8 bits, whose white is 255")


class _Richer(Exception):
    """Raised for an image that the form loses something of."""

    def __init__(self, form: Form) -> None:
        self.form = form


def _check_empty(found: Layout, entries: list[zipfile.ZipInfo], empty: list[int]) -> tuple[str, ...]:
    """A warning for the pictures with the indices `empty`. Raises UnusableUpload if they are all that a class has."""
    if not empty:
        return ()
    why = (
        "what it shows has the colour of its background: transparent pixels become black, so black on transparency is "
        "an empty picture"
    )
    labels = np.array([picture.label for picture in found.pictures])
    n = len(found.classes)
    lost = np.bincount(labels[empty], minlength=n) == np.bincount(labels, minlength=n)
    for label in np.flatnonzero(lost)[:1]:
        first = entries[int(np.flatnonzero(labels == label)[0])].filename
        detail = f"{first}, and every other picture of the class '{found.classes[label]}': {why}. Save them on white"
        raise UnusableUpload("unreadable_image", detail, name=first)
    return (f"{escaped(entries[empty[0]].filename)} ({len(empty)} of {len(entries)} pictures): {why}",)


def _decode(
    archive: zipfile.ZipFile,
    entries: list[zipfile.ZipInfo],
    splits: dict[str, Array],
    size: int | None,
    folder: Path,
    budget: Budget,
    form: Form,
) -> Decoded:
    """Write the images."""
    first, _ = _image(archive, entries[0], size, budget, form, None)
    shape = (form.channels, first.shape[1], first.shape[2])
    places: list[tuple[Array, int]] = [(first, 0)] * len(entries)
    before, empty, brightest = budget.spent, [], 0.0
    for name, indices in splits.items():
        target = create(folder / name, len(indices), shape, form.scale, budget)
        for position, index in enumerate(indices):
            places[index] = (target, position)
    try:
        for index, (entry, (target, position)) in enumerate(zip(entries, places, strict=True)):
            image, is_empty = _image(archive, entry, size, budget, form, (shape[2], shape[1]))
            target[position] = image
            brightest = max(brightest, float(image.max()))
            if is_empty:
                empty.append(index)
    except _Richer:
        budget.spent = before  # the arrays written so far are overwritten
        raise
    return Decoded(shape, empty, brightest)


def _image(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    size: int | None,
    budget: Budget,
    form: Form,
    like: tuple[int, int] | None,
) -> tuple[Array, bool]:
    """One image (C,H,W) of float32, whole numbers from 0 to the form's white; and whether it is empty although its
    transparency is not, or its colours below full transparency are not.

    `like`: (width, height) of the previous images. Raises UnusableUpload.
    """
    name = entry.filename
    with entry_stream(archive, entry, "unreadable_image") as stream:
        raw = stream.read(MAX_FILE_BYTES + 1)
    budget.spend(len(raw), name)
    if len(raw) > MAX_FILE_BYTES:
        raise UnusableUpload("image_too_large", f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB", name=name)
    try:
        return _pixels(
            decode(raw, lambda width, height: _check_size(name, width, height, size)), name, size, form, like
        )
    except (UnusableUpload, _Richer):
        raise
    except Image.DecompressionBombError as error:
        raise UnusableUpload("image_too_large", f"{name}: {error}", name=name) from error
    except UnidentifiedImageError as error:  # its message contains the address of an object
        detail = f"{name} is not a PNG or JPEG image; leave it out or save it again"
        raise UnusableUpload("unreadable_image", detail, name=name) from error
    except Exception as error:  # Pillow's decoders raise exceptions of many types
        detail = f"{name} cannot be read as PNG or JPEG: {error}; leave it out or save it again"
        raise UnusableUpload("unreadable_image", detail, name=name) from error


def _check_size(name: str, width: int, height: int, size: int | None) -> None:
    """Check the size in the header, before decoding. Raises UnusableUpload."""
    if size is not None:
        if width * height > MAX_SOURCE_PIXELS:
            detail = f"{name}: {width}x{height} is more than {MAX_SOURCE_PIXELS} pixels; make it smaller first"
            raise UnusableUpload("image_too_large", detail, name=name)
    elif max(width, height) > MAX_SIDE:
        detail = (
            f"{name}: {width}x{height} pixels; at most {MAX_SIDE}x{MAX_SIDE} are accepted; 'size' resizes all images"
        )
        raise UnusableUpload("image_too_large", detail, name=name)


def _pixels(
    picture: Array, name: str, size: int | None, form: Form, like: tuple[int, int] | None
) -> tuple[Array, bool]:
    height, width, samples = picture.shape
    if size is None and like is not None and (width, height) != like:
        detail = f"{name}: {width}x{height} pixels, previous images {like[0]}x{like[1]}. 'size' resizes all images"
        raise UnusableUpload("size_mismatch", detail, name=name)
    needed = Form(form.colour or samples > 2, form.deep or picture.dtype == np.uint16)
    if needed != form:
        raise _Richer(needed)
    white = form.scale.white
    shape = (form.channels, size or height, size or width)
    pixels = np.rint(inference.fitted(picture, shape) * np.float32(white))
    return pixels, samples in (2, 4) and _is_flat(pixels) and _had_content(picture)


def _had_content(picture: Array) -> bool:
    """Whether the transparency of a picture (H,W,C) differs between pixels, or hides colours that do."""
    alpha = picture[..., -1]
    return not _is_flat(alpha) or (alpha.max() == 0 and not all(_is_flat(c) for c in np.moveaxis(picture, -1, 0)))


def _is_flat(values: Array) -> bool:
    return bool(values.min() == values.max())
