"""Predictions of a finished model for images in the request: numpy on the stored weights, without torch or a worker."""

from __future__ import annotations

import io
import json
import math
import threading
import zipfile
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
from api.uploads.archive import BROKEN, METHODS
from api.uploads.npz import read_header
from shared import inference
from shared.db.tables import ArtifactRow
from shared.errors import FieldError, NotFound, UnusableUpload, WrongState
from shared.inference import Array, Model
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.validation_errors import field_error

MAX_IMAGES = 10_000
ANSWER_BYTES = 16 << 20
MAX_PICTURE_PIXELS = 1 << 24  # of one PNG or JPEG: 4096 x 4096
MAX_REQUEST_PIXELS = 1 << 26  # of all PNGs and JPEGs of a request
MAX_UNPACKED_BYTES = 1 << 28  # of the array in an npz
MAX_MULTIPLICATIONS = 200_000_000_000  # of all images of a request: about half a minute of one core
MAX_MODEL_BYTES = 1 << 29  # of all models in the cache, and so of each one

FORM, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
NPZ = ("application/octet-stream", "application/zip", "application/x-npz", "application/x-numpy-data")
BINARY = ("image/png", "image/jpeg", *NPZ)
BYTES = {"type": "string", "format": "binary"}
FORM_SCHEMA = {
    "type": "object",
    "properties": {
        "files": {"type": "array", "items": BYTES},
        "invert": {"type": "boolean"},
        "white": {"type": "number", "exclusiveMinimum": 0, "description": "the number that is white in arrays"},
    },
}
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "npz": b"PK\x03\x04"}
ARRAYS = ("images", "x")  # names of the array in an npz

bp = Blueprint("predictions", __name__)


class PredictQuery(Query):
    invert: bool = Field(False, description="invert the images: black on white, for a model trained on white on black")


@bp.before_request
def _raise_body_limits() -> None:
    request.max_form_parts = MAX_IMAGES + 2


@bp.post("/v1/jobs/<job_id>/predict")
@endpoint(
    schemas.Predictions,
    scope="submit",
    query=PredictQuery,
    body=schemas.Images,
    body_bytes="predict_bytes",
    answer_bytes=ANSWER_BYTES,
    other_bodies={FORM: FORM_SCHEMA, **dict.fromkeys(BINARY[:3], BYTES)},
    errors=(400, 404, 409, 413, 415, 503),
    problems={422: ("invalid_query", "invalid_images", "not_built")},
    name="predict",
)
@once
def predict(job_id: str, query: PredictQuery) -> Response:
    """Classify images with a finished model

    The body is a PNG or JPEG of any size, an `.npz` with an array `images`, JSON lists, or a form with several files.
    Arrays must have the model's size. Their numbers are from 0 to `white` if JSON or form give it; else those of an
    image are in [0, 1] if none exceeds 1, and otherwise pixels from 0 to the dataset's white.
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
    """LRU cache of models by the SHA-256 of their files, up to `limit_bytes` in all."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], Model]) -> Model:
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
                return self._models[key]
        model = load()  # without the lock: two requests may load the same file at once
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
            detail = f"job {job_id} is {job.state}; only a job that has succeeded has a model"
            raise WrongState(detail, state=str(job.state), allowed=[])
        description, weights = (jobs.artifact(session, job_id, name) for name in ("model.json", "model.safetensors"))
    if weights.size_bytes > MAX_MODEL_BYTES:
        detail = f"the model has {weights.size_bytes} bytes; models of at most {MAX_MODEL_BYTES} bytes are served"
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


# --- the images in the request ----------------------------------------------------------------------------------------


@dataclass
class Sent:
    """Images of the request as input of the model: `parts` of shape (N,C,H,W) in [0, 1]."""

    parts: list[Array]
    names: list[str] | None = None  # file names of a form, one per image


def read(model: Model, invert: bool) -> Sent:
    if request.mimetype == FORM:
        sent = _read_form(model, invert)
    elif request.mimetype in (JSON, URLENCODED, *BINARY):
        sent = Sent([_read_body(read_body(), model, invert)])
    else:
        got = request.mimetype or "none"
        raise UnsupportedMediaType(f"send JSON, a PNG or JPEG, an npz, or a form with files; got {got}")
    if not (n := sum(map(len, sent.parts))):
        raise InvalidImages("no image was sent")
    if n > MAX_IMAGES:
        raise InvalidImages(f"{n} images; at most {MAX_IMAGES} are accepted per request")
    if n > (most := max(1, MAX_MULTIPLICATIONS // max(1, model.multiplications))):
        detail = f"{n} images, of {model.multiplications} multiplications each in this model"
        raise InvalidImages(f"{detail}; send at most {most} per request, or run its model.onnx")
    return sent


def _read_body(body: bytes, model: Model, invert: bool) -> Array:
    """Images of a body, whose format is found by its first bytes: curl sends the media type of a form by default."""
    if request.mimetype == JSON or (_kind(body) is None and body.lstrip().startswith(b"{")):
        return _read_json(from_json(body), model, invert)
    return _read_file(body, model, PixelBudget(), invert, None)


def _read_json(body: Any, model: Model, invert: bool) -> Array:
    try:
        sent = schemas.Images.model_validate(body)
    except ValidationError as error:
        wrong = [field_error(schemas.Images, e) for e in error.errors(include_url=False)]
        raise InvalidImages("; ".join(f"{w.pointer or 'the body'}: {w.detail}" for w in wrong), errors=wrong) from error
    return _checked(sent.images, model, invert or sent.invert, sent.white, "/images")


def _read_form(model: Model, invert: bool) -> Sent:
    files = [file for _, file in request.files.items(multi=True)]
    if unknown := [name for name in request.form if name not in ("invert", "white")]:
        detail = f"unknown field {unknown[0][:80]!r}; a form has files, `invert` and `white`"
        raise InvalidImages(detail, "/" + unknown[0][:80])
    inverted = request.form.get("invert", "false").lower()
    if inverted not in ("true", "false", "1", "0"):
        raise InvalidImages(f"invert must be true or false, got {inverted[:20]!r}", "/invert")
    white = _white(request.form.get("white"))
    sent, budget = Sent([], []), PixelBudget()
    assert sent.names is not None
    for i, file in enumerate(files):
        name = file.filename or f"file {i + 1}"
        try:
            sent.parts.append(_read_file(file.read(), model, budget, invert or inverted in ("true", "1"), white))
        except InvalidImages as error:
            raise InvalidImages(f"{name}: {error.detail}", f"/files/{i}") from error
        sent.names += [name] * len(sent.parts[-1])
    return sent


def _white(text: str | None) -> float | None:
    """The form's field `white`. Raises InvalidImages unless it is a positive number."""
    if text is None:
        return None
    try:
        white = float(text)
    except ValueError:
        white = math.nan
    if not 0 < white < math.inf:
        raise InvalidImages(f"white must be a number above 0, got {text[:20]!r}", "/white")
    return white


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


def _kind(content: bytes) -> str | None:
    return next((kind for kind, magic in MAGIC.items() if content.startswith(magic)), None)


def _read_file(content: bytes, model: Model, budget: PixelBudget, invert: bool, white: float | None) -> Array:
    kind = _kind(content)
    if kind is None:
        raise InvalidImages("neither a PNG, a JPEG nor an npz")
    if kind == "npz":
        return _checked(read_npz(content), model, invert, white)
    if white is not None:
        raise InvalidImages("white is for arrays; a picture has its own. Send them in separate requests")
    try:
        return model.picture(read_picture(content, budget), invert)
    except inference.Refused as error:
        raise InvalidImages(str(error)) from error


def _checked(images: Any, model: Model, invert: bool, white: float | None, pointer: str = "") -> Array:
    try:
        return model.array(images, invert, white)
    except inference.Refused as error:
        raise InvalidImages(str(error), pointer) from error


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


def read_npz(content: bytes) -> Array:
    """The array `images` (or `x`) of an npz. Its header is checked first: nothing is unpickled, and the unpacked size
    is limited. Raises InvalidImages."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            wanted = next((f"{name}.npy" for name in ARRAYS if f"{name}.npy" in names), None)
            if wanted is None:
                there = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "nothing"
                raise InvalidImages(f"the npz must contain an array `images` (or `x`), and contains {there[:200]}")
            info = archive.getinfo(wanted)
            if info.file_size > MAX_UNPACKED_BYTES:  # zipfile never reads more than this
                raise InvalidImages(
                    f"{wanted} unpacks to {info.file_size} bytes; at most {MAX_UNPACKED_BYTES} are accepted"
                )
            if info.compress_type not in METHODS:
                raise InvalidImages("the npz has a compression method that numpy does not write")
            with archive.open(info) as file:
                shape, fortran, dtype = read_header(file, wanted)
                if dtype.hasobject or dtype.kind not in "biuf":
                    raise InvalidImages(f"images must be numbers, got {dtype}; Python objects are never unpickled")
                raw = file.read()
    except InvalidImages:
        raise
    except UnusableUpload as error:
        raise InvalidImages(error.detail) from error
    except BROKEN as error:
        raise InvalidImages(f"the npz cannot be read: {error}"[:300]) from error
    if len(raw) != math.prod(shape) * dtype.itemsize:  # math.prod: Python's integers do not overflow
        raise InvalidImages(f"the npz is damaged: {len(raw)} bytes for {shape} of {dtype}")
    try:
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError, OverflowError) as error:  # too many dimensions, or sizes too large
        raise InvalidImages(f"{wanted} has the shape {str(shape)[:200]}: {error}") from error
