"""Images for predictions, of each format that is accepted: as parts (N,C,H,W) in [0, 1], decoded while they are
computed, so that memory does not grow with their number."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from pydantic import ValidationError

from api.http.errors import InvalidImages
from api.http.requests import from_json
from api.openapi import schemas
from api.predictions.allowance import Allowance
from api.predictions.json_images import WHOLE_BYTES, Images
from api.uploads.archive import BROKEN, METHODS, refuse_many_entries
from api.uploads.npz import read_header
from shared import inference
from shared.errors import BadRequest, UnusableUpload
from shared.inference import Array, Model
from shared.validation_errors import field_errors

MAX_PICTURE_PIXELS = 1 << 24  # of one PNG or JPEG: 4096 x 4096
MAX_REQUEST_PIXELS = 1 << 26  # of all PNGs and JPEGs of a request
MAX_UNPACKED_BYTES = 1 << 28  # of the array in an npz
MAX_COLUMNS_FIRST_BYTES = 1 << 25  # of an array in Fortran's order, which is read at once

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "npz": b"PK\x03\x04"}
ARRAYS = ("images", "x")  # names of the array in an npz

Parts = Iterator[Array]


class PixelBudget:
    """Limits the pixels of a request, before decoding: a PNG of a few kilobytes can unpack to gigabytes."""

    def __init__(self) -> None:
        self.left = MAX_REQUEST_PIXELS

    def spend(self, width: int, height: int) -> None:
        if width * height > MAX_PICTURE_PIXELS:
            raise InvalidImages(f"an image of {width} x {height}; at most {MAX_PICTURE_PIXELS} pixels are accepted")
        self.left -= width * height
        if self.left < 0:
            raise InvalidImages(
                f"the images have more than {MAX_REQUEST_PIXELS} pixels in total; send fewer per request"
            )


class Reader:
    """Reads the images of one request for one model."""

    def __init__(self, model: Model, invert: bool) -> None:
        self.model, self.invert = model, invert
        self.allowance, self.pixels = Allowance(model), PixelBudget()
        # as many as the model computes at once: a product's last bits depend on it, and memory on nothing else
        self.step = model.images_at_once

    def of_json(self, body: bytes) -> Parts:
        """Parts of a JSON body. Raises BadRequest and InvalidImages, as all of these do."""
        if len(body) <= WHOLE_BYTES:
            sent = _fields(from_json(body))
            yield from self._array(sent.images, self.invert or sent.invert, sent.white)
            return
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"the body is not UTF-8: invalid byte at position {error.start}") from error
        images = Images(text, math.prod(self.model.shape))
        del body
        sent = _fields(images.rest)
        invert = self.invert or sent.invert
        if len(images) and not self._is_image(images.depth):  # the parts are rows or channels of one image
            whole = list(images.decoded(0, max(self.model.shape) + 1))
            yield from self._array(whole, invert, sent.white)
            return
        self.allowance.spend(len(images))
        for first in range(0, len(images), self.step):
            some = list(images.decoded(first, first + self.step))
            yield self._pixels(some, invert, sent.white, first)

    def of_file(self, content: bytes, white: float | None, name: str | None = None) -> Parts:
        """Parts of a PNG, a JPEG or an npz. `white`: the number that is white in an array; `name`: the file's."""
        kind = kind_of(content)
        if kind is None:
            raise InvalidImages("neither a PNG, a JPEG nor an npz")
        if kind == "npz":
            yield from self._npz(content, white, name)
            return
        if white is not None:
            raise InvalidImages("white is for arrays; a picture has its own. Send them in separate requests")
        self.allowance.spend(1, name)
        try:
            yield self.model.picture(read_picture(content, self.pixels), self.invert)
        except inference.Refused as error:
            raise InvalidImages(str(error)) from error

    def _is_image(self, depth: int) -> bool:
        """Whether a list of so many lists in lists can be one of several images."""
        return depth == 3 or (depth == 2 and self.model.shape[0] == 1)

    def _array(self, images: Any, invert: bool, white: float | None) -> Parts:
        """One part of nested lists that are few."""
        pixels = self._pixels(images, invert, white, 0)
        self.allowance.spend(len(pixels))
        yield pixels

    def _pixels(self, images: Any, invert: bool, white: float | None, first: int, pointer: str = "/images") -> Array:
        try:
            return self.model.array(images, invert, white, first)
        except inference.Refused as error:
            raise InvalidImages(str(error), pointer) from error

    def _npz(self, content: bytes, white: float | None, name: str | None) -> Parts:
        """The array `images` (or `x`) of an npz, some images at a time. Its header is checked first: nothing is
        unpickled, and the unpacked size is limited."""
        try:
            with _opened(content) as archive, _member(archive) as (file, size):
                shape, fortran, dtype = read_header(file, file.name)
                if dtype.hasobject or dtype.kind not in "biuf":
                    raise InvalidImages(f"images must be numbers, got {dtype}; Python objects are never unpickled")
                size -= file.tell()
                if size != math.prod(shape) * dtype.itemsize:  # math.prod: Python's integers do not overflow
                    raise InvalidImages(f"the npz is damaged: {size} bytes for {shape} of {dtype}")
                form = self._form(shape, dtype, file.name)
                if not form.size:
                    return
                self.allowance.spend(len(form), name)
                if fortran or shape in (self.model.shape, self.model.shape[1:]):  # columns first; or one image
                    yield from self._at_once(file, shape, fortran, dtype, white)
                    return
                for first in range(0, len(form), self.step):
                    some = (min(self.step, len(form) - first), *shape[1:])
                    yield self._pixels(_next(file, some, dtype), self.invert, white, first, "")
                _end(file)
        except InvalidImages:
            raise
        except UnusableUpload as error:
            raise InvalidImages(error.detail) from error
        except BROKEN as error:
            raise InvalidImages(f"the npz cannot be read: {error}"[:300]) from error

    def _form(self, shape: tuple[int, ...], dtype: np.dtype, name: str) -> Array:
        """An array without memory of its own that has this shape, as (N,C,H,W); as it is if it has no numbers."""
        try:
            if not all(type(length) is int for length in shape):
                raise TypeError("lengths must be whole numbers")
            form = np.broadcast_to(np.zeros((), dtype), shape)
        except (ValueError, TypeError, OverflowError) as error:  # too many dimensions, or sizes too large
            raise InvalidImages(f"{name} has the shape {str(shape)[:200]}: {error}") from error
        try:
            return inference.arranged(form, self.model.shape) if form.size else form
        except inference.Refused as error:
            raise InvalidImages(str(error)) from error

    def _at_once(
        self, file: IO[bytes], shape: tuple[int, ...], fortran: bool, dtype: np.dtype, white: float | None
    ) -> Parts:
        if math.prod(shape) * dtype.itemsize > MAX_COLUMNS_FIRST_BYTES:
            detail = f"an array in Fortran's order of more than {MAX_COLUMNS_FIRST_BYTES} bytes"
            raise InvalidImages(f"{detail}; save numpy.ascontiguousarray(images)")
        flat = _next(file, (math.prod(shape),), dtype)
        _end(file)
        array = flat.reshape(shape, order="F" if fortran else "C")
        pixels = inference.arranged(array, self.model.shape)
        for first in range(0, len(pixels), self.step):
            yield self._pixels(pixels[first : first + self.step], self.invert, white, first, "")


def _fields(body: Any) -> schemas.Images:
    try:
        return schemas.Images.model_validate(body)
    except ValidationError as error:
        wrong, more = field_errors(schemas.Images, error)
        detail = "; ".join(f"{w.pointer or 'the body'}: {w.detail}" for w in wrong)
        raise InvalidImages(detail, errors=wrong, more=more) from error


def kind_of(content: bytes) -> str | None:
    """`png`, `jpeg` or `npz`, by the first bytes; None for anything else."""
    return next((kind for kind, magic in MAGIC.items() if content.startswith(magic)), None)


def batches(parts: Iterable[tuple[Array, str | None]], step: int) -> Iterator[tuple[Array, list[str | None]]]:
    """The same images, `step` at a time, each with the name of its file: how a request divides them does not matter."""
    waiting: list[Array] = []
    names: list[str | None] = []
    for part, name in parts:
        while len(part):
            some, part = part[: step - len(names)], part[step - len(names) :]
            waiting.append(some)
            names += [name] * len(some)
            if len(names) == step:
                yield _joined(waiting), names
                waiting, names = [], []
    if names:
        yield _joined(waiting), names


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_picture(content: bytes, budget: PixelBudget) -> Array:
    """Decode a PNG or JPEG as an upload of it would be: see `pictures.decode`. Raises InvalidImages."""
    from PIL import UnidentifiedImageError

    from api.uploads import pictures

    try:
        return pictures.decode(content, budget.spend)
    except InvalidImages:
        raise
    except UnidentifiedImageError as error:  # its message contains the address of an object
        raise InvalidImages("not a PNG or JPEG image; is the file whole?") from error
    except Exception as error:  # decoders fail in many ways on bytes from outside
        raise InvalidImages(f"the image cannot be read: {error}"[:300]) from error


# --- npz --------------------------------------------------------------------------------------------------------------


def _opened(content: bytes) -> zipfile.ZipFile:
    refuse_many_entries(io.BytesIO(content))
    return zipfile.ZipFile(io.BytesIO(content))


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile) -> Iterator[tuple[IO[bytes], int]]:
    """Context manager: the member with the images, and its size. Raises InvalidImages."""
    names = archive.namelist()
    wanted = next((f"{name}.npy" for name in ARRAYS if f"{name}.npy" in names), None)
    if wanted is None:
        there = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "nothing"
        raise InvalidImages(f"the npz must contain an array `images` (or `x`), and contains {there[:200]}")
    info = archive.getinfo(wanted)
    if info.file_size > MAX_UNPACKED_BYTES:  # zipfile never reads more than this
        raise InvalidImages(f"{wanted} unpacks to {info.file_size} bytes; at most {MAX_UNPACKED_BYTES} are accepted")
    if info.compress_type not in METHODS:
        raise InvalidImages("the npz has a compression method that numpy does not write")
    with archive.open(info) as file:
        yield file, info.file_size


def _next(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """The next numbers of the member, as an array of this shape. Raises InvalidImages if there are too few."""
    size = math.prod(shape) * dtype.itemsize
    raw = file.read(size)
    if len(raw) != size:
        raise InvalidImages(f"the npz is damaged: {len(raw)} bytes for {shape} of {dtype}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _end(file: IO[bytes]) -> None:
    """Read to the end, where zipfile compares the checksum."""
    if file.read(1):
        raise InvalidImages("the npz is damaged: it is longer than its header says")
