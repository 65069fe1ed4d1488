"""What a finished model sees in images that are sent to it: numpy on the stored weights, no torch and no worker."""

from __future__ import annotations

import io
import json
import math
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flask import Blueprint, Response, jsonify, request
from pydantic import Field, ValidationError
from werkzeug.exceptions import UnsupportedMediaType

from api.changes.idempotency import once
from api.http.errors import InvalidImages, NotBuilt
from api.http.requests import Query, from_json, read_body
from api.openapi import schemas
from api.openapi.endpoint import JSON, endpoint
from api.services import services
from api.uploads.npz import read_header
from shared import inference
from shared.db.tables import ArtifactRow
from shared.errors import FieldError, NotFound, UnusableUpload, WrongState
from shared.inference import Array, Model
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.validation_errors import field_error

MAX_IMAGES = 10_000
MAX_PICTURE_PIXELS = 1 << 24  # of one PNG or JPEG: 4096 x 4096
MAX_REQUEST_PIXELS = 1 << 26  # of all of them
MAX_UNPACKED_BYTES = 1 << 28  # of an array in an npz
MAX_MODEL_BYTES = 1 << 29  # of the models that are kept loaded, and so of each

FORM, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
NPZ = ("application/octet-stream", "application/zip", "application/x-npz", "application/x-numpy-data")
BINARY = ("image/png", "image/jpeg", *NPZ)
BYTES = {"type": "string", "format": "binary"}
FORM_SCHEMA = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": BYTES}, "invert": {"type": "boolean"}},
}
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "npz": b"PK\x03\x04"}
ARRAYS = ("images", "x")  # an npz holds them under one of these names

bp = Blueprint("predictions", __name__)


class PredictQuery(Query):
    invert: bool = Field(False, description="black on white, where the model learnt white on black")


@bp.before_request
def _take_more() -> None:
    request.max_content_length = services().settings.predict_bytes
    request.max_form_parts = MAX_IMAGES + 2


@bp.post("/v1/jobs/<job_id>/predict")
@endpoint(
    schemas.Predictions,
    scope="submit",
    query=PredictQuery,
    body=schemas.Images,
    other_bodies={FORM: FORM_SCHEMA, **dict.fromkeys(BINARY[:3], BYTES)},
    errors=(400, 404, 409, 413, 415, 503),
    problems={422: ("invalid_query", "invalid_images", "not_built")},
    name="predict",
)
@once
def predict(job_id: str, query: PredictQuery) -> Response:
    """Let a finished model label images

    The body is one PNG or JPEG of any size, an `.npz` with an array `images`, JSON lists, or a form with several files.
    Arrays have the model's own size; their whole numbers are pixels from 0 to the dataset's white, other numbers lie
    in [0, 1].
    """
    model = model_of(job_id)
    sent = read(model, query.invert)
    answers = model.answer(np.concatenate(sent.parts))
    if sent.names is not None:
        for answer, name in zip(answers, sent.names, strict=True):
            answer["file"] = name
    return jsonify({"object": "predictions", "job": job_id, "classes": model.classes, "predictions": answers})


# --- the model --------------------------------------------------------------------------------------------------------


class ModelCache:
    """The models used last, by the sha256 of their files, as many as `limit_bytes` hold."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], Model]) -> Model:
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
                return self._models[key]
        model = load()  # without the lock: that two requests read one file at once does no harm
        with self._lock:
            self._models[key] = model
            while len(self._models) > 1 and self.size_bytes > self.limit_bytes:
                self._models.popitem(last=False)
        return model

    @property
    def size_bytes(self) -> int:
        return sum(model.size_bytes for model in self._models.values())


_models = ModelCache(MAX_MODEL_BYTES)


def model_of(job_id: str) -> Model:
    with services().database.read() as session:
        job = jobs.get(session, job_id)
        if job.state != JobState.SUCCEEDED:
            detail = f"job {job_id} is {job.state}; a model is there once it has succeeded"
            raise WrongState(detail, state=str(job.state), allowed=[])
        description, weights = (jobs.artifact(session, job_id, name) for name in ("model.json", "model.safetensors"))
    if weights.size_bytes > MAX_MODEL_BYTES:
        detail = f"the model has {weights.size_bytes} bytes, and models up to {MAX_MODEL_BYTES} are served here"
        raise NotBuilt([FieldError("", "model_too_large", f"{detail}; download it and run its predict.py")])
    return _models.get(weights.sha256 + description.sha256, lambda: _load(description, weights))


def _load(description: ArtifactRow, weights: ArtifactRow) -> Model:
    from safetensors.numpy import load

    try:
        return Model(json.loads(_bytes_of(description)), load(_bytes_of(weights)))
    except inference.Refused as error:
        raise NotBuilt([FieldError("", "not_built", str(error))]) from error


def _bytes_of(row: ArtifactRow) -> bytes:
    try:
        with services().store.open(row.key) as file:
            return file.read()
    except FileNotFoundError as error:
        raise NotFound(f"the file {row.name} of job {row.job_id} has been removed") from error


# --- what was sent ----------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """Images as the model takes them: `parts` of (N,C,H,W) in [0, 1]."""

    parts: list[Array]
    names: list[str] | None = None  # of the files of a form, one an image


def read(model: Model, invert: bool) -> Sent:
    if request.mimetype == FORM:
        sent = _read_form(model, invert)
    elif request.mimetype in (JSON, URLENCODED, *BINARY):
        sent = Sent([_read_body(read_body(), model, invert)])
    else:
        got = request.mimetype or "none"
        raise UnsupportedMediaType(f"send JSON, a PNG or JPEG, an npz, or a form with files; got {got}")
    if not (n := sum(map(len, sent.parts))):
        raise InvalidImages("there is no image")
    if n > MAX_IMAGES:
        raise InvalidImages(f"{n} images; at most {MAX_IMAGES} are taken at once")
    return sent


def _read_body(body: bytes, model: Model, invert: bool) -> Array:
    """What a file is, its first bytes say; curl calls each a form unless it is told."""
    if request.mimetype == JSON or (_kind(body) is None and body.lstrip().startswith(b"{")):
        return _read_json(from_json(body), model, invert)
    return _read_file(body, model, PixelBudget(), invert)


def _read_json(body: Any, model: Model, invert: bool) -> Array:
    try:
        sent = schemas.Images.model_validate(body)
    except ValidationError as error:
        wrong = [field_error(schemas.Images, e) for e in error.errors(include_url=False)]
        raise InvalidImages("; ".join(f"{w.pointer or 'the body'}: {w.detail}" for w in wrong), errors=wrong) from error
    return _checked(sent.images, model, invert or sent.invert, "/images")


def _read_form(model: Model, invert: bool) -> Sent:
    files = [file for _, file in request.files.items(multi=True)]
    if unknown := [name for name in request.form if name != "invert"]:
        raise InvalidImages(f"unknown field {unknown[0][:80]!r}; a form has files and `invert`", "/" + unknown[0][:80])
    said = request.form.get("invert", "false").lower()
    if said not in ("true", "false", "1", "0"):
        raise InvalidImages(f"invert must be true or false, got {said[:20]!r}", "/invert")
    sent, budget = Sent([], []), PixelBudget()
    assert sent.names is not None
    for i, file in enumerate(files):
        name = file.filename or f"file {i + 1}"
        try:
            sent.parts.append(_read_file(file.read(), model, budget, invert or said in ("true", "1")))
        except InvalidImages as error:
            raise InvalidImages(f"{name}: {error.detail}", f"/files/{i}") from error
        sent.names += [name] * len(sent.parts[-1])
    return sent


class PixelBudget:
    """A few kilobytes of PNG can hold a picture of gigabytes: counted before it is unpacked."""

    def __init__(self) -> None:
        self.left = MAX_REQUEST_PIXELS

    def spend(self, width: int, height: int) -> None:
        if width * height > MAX_PICTURE_PIXELS:
            raise InvalidImages(f"a picture of {width} x {height}; at most {MAX_PICTURE_PIXELS} pixels are taken")
        self.left -= width * height
        if self.left < 0:
            raise InvalidImages(f"the pictures have more than {MAX_REQUEST_PIXELS} pixels in all; send fewer at once")


def _kind(content: bytes) -> str | None:
    return next((kind for kind, magic in MAGIC.items() if content.startswith(magic)), None)


def _read_file(content: bytes, model: Model, budget: PixelBudget, invert: bool) -> Array:
    kind = _kind(content)
    if kind is None:
        raise InvalidImages("neither a PNG, a JPEG nor an npz")
    if kind == "npz":
        return _checked(read_npz(content), model, invert)
    try:
        return inference.fitted(read_picture(content, budget), model.shape, invert)[None]
    except inference.Refused as error:
        raise InvalidImages(str(error)) from error


def _checked(images: Any, model: Model, invert: bool, pointer: str = "") -> Array:
    try:
        pixels = inference.pixels_of(images, model.shape, model.white)
    except inference.Refused as error:
        raise InvalidImages(str(error), pointer) from error
    return 1 - pixels if invert else pixels


def read_picture(content: bytes, budget: PixelBudget) -> Array:
    """(h,w,1..4) float32 in [0, 1] from a PNG or JPEG."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as opened:
            budget.spend(*opened.size)
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # 16 bits of grey
                return (np.asarray(picture, np.float32) / 65535)[..., None]
            if picture.has_transparency_data and picture.mode != "LA":
                picture = picture.convert("RGBA")
            elif picture.mode not in ("L", "LA", "RGB"):
                picture = picture.convert("L" if picture.mode == "1" else "RGB")
            pixels = np.asarray(picture, np.float32) / 255
    except InvalidImages:
        raise
    except UnidentifiedImageError as error:  # whose own words name an object in memory
        raise InvalidImages("not a PNG or JPEG image; is the file whole?") from error
    except Exception as error:  # decoders fail in many ways on bytes from outside
        raise InvalidImages(f"a picture that cannot be read: {error}"[:300]) from error
    return pixels.reshape(*pixels.shape[:2], -1)


def read_npz(content: bytes) -> Array:
    """The array `images` (or `x`). Its header is read first: nothing is unpickled, and a bomb is not unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            wanted = next((f"{name}.npy" for name in ARRAYS if f"{name}.npy" in names), None)
            if wanted is None:
                there = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "nothing"
                raise InvalidImages(f"the npz must hold an array `images` (or `x`), and holds {there[:200]}")
            info = archive.getinfo(wanted)
            if info.file_size > MAX_UNPACKED_BYTES:  # what is read of the file never exceeds this number
                raise InvalidImages(
                    f"{wanted} unpacks to {info.file_size} bytes; at most {MAX_UNPACKED_BYTES} are taken"
                )
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InvalidImages("the npz is compressed in a way that numpy does not use")
            with archive.open(info) as file:
                shape, fortran, dtype = read_header(file, wanted)
                if dtype.hasobject or dtype.kind not in "biuf":
                    raise InvalidImages(f"images must be numbers, got {dtype}; Python objects are never unpickled")
                raw = file.read()
    except InvalidImages:
        raise
    except UnusableUpload as error:
        raise InvalidImages(error.detail) from error
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OSError, EOFError, RuntimeError) as error:
        raise InvalidImages(f"an npz that cannot be read: {error}"[:300]) from error  # NotImplementedError too
    if len(raw) != math.prod(shape) * dtype.itemsize:  # of Python's integers, which do not overflow
        raise InvalidImages(f"the npz is damaged: {len(raw)} bytes for {shape} of {dtype}")
    try:
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError, OverflowError) as error:  # no array has that many dimensions, or such sizes
        raise InvalidImages(f"{wanted} has the shape {str(shape)[:200]}: {error}") from error
