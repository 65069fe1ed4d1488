"""Predictions of a finished model for images in the request: numpy on the stored weights, without torch or a worker."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import Field
from werkzeug.exceptions import UnsupportedMediaType

from api.access.auth import principal
from api.http.errors import InvalidImages, NotBuilt
from api.http.requests import Query, read_body
from api.openapi import schemas
from api.openapi.endpoint import JSON, endpoint
from api.openapi.problems import STORE
from api.predictions.allowance import MAX_ANSWER_BYTES, MAX_IMAGES, check_file_name, check_model
from api.predictions.images import Reader, batches, kind_of
from api.predictions.models import ModelCache
from api.predictions.places import PredictionPlaces
from api.services import services
from api.waiting import transfers
from shared import inference
from shared.db.tables import ArtifactRow
from shared.errors import FieldError, NotFound, WrongState
from shared.inference import Array, Model
from shared.jobs import jobs
from shared.jobs.states import JobState

MAX_MODEL_BYTES = 1 << 29  # of all models in the cache, and so of each one
EXTENSION = "gradq.predictions"

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

bp = Blueprint("predictions", __name__)


class PredictQuery(Query):
    invert: bool = Field(False, description="invert the images: black on white, for a model trained on white on black")


@bp.before_request
def _raise_form_limits() -> None:
    request.max_form_parts = MAX_IMAGES + 2


@bp.post("/v1/jobs/<job_id>/predict")
@endpoint(
    schemas.Predictions,
    scope="submit",
    query=PredictQuery,
    body=schemas.Images,
    body_bytes="predict_bytes",
    answer_bytes=MAX_ANSWER_BYTES,
    other_bodies={FORM: FORM_SCHEMA, **dict.fromkeys(BINARY[:3], BYTES)},
    errors=(400, 404, 409, 413, 415, 503),
    problems={
        422: ("invalid_query", "invalid_images", "not_built"),
        503: (*STORE[503], "too_many_predictions"),
    },
    name="predict",
)
def predict(job_id: str, query: PredictQuery) -> Response:
    """Classify images with a finished model

    The body is a PNG or JPEG of any size, an `.npz` with an array `images`, JSON lists, or a form with several files.
    Arrays must have the model's size. Their numbers are from 0 to `white` if JSON or form give it; else those of an
    image are in [0, 1] if none exceeds 1, and otherwise pixels from 0 to the dataset's white.

    A prediction changes nothing, so no response is stored for an `Idempotency-Key`: a request that is sent again is
    computed again, and has the same response while the job exists.
    """
    load = find_model(job_id)
    owner, places = principal().owner, _places()
    size = request.content_length if request.content_length is not None else services().settings.predict_bytes
    with places.taken(places.bytes, owner, size):
        transfers.begin_to_wait()
        sent = Sent(query.invert)
        load()  # before there is a place to compute: a store may be slow. Not kept: many may wait, each for its own
        with places.taken(places.computing, owner):
            model, answers = load(), []  # read again only if others have taken its place in the cache
            reader = Reader(model, sent.invert)
            for pixels, names in batches(sent.parts(reader), reader.step):
                for answer, name in zip(model.answer(pixels), names, strict=True):
                    answers.append(answer if name is None else {**answer, "file": name})
            if not answers:
                raise InvalidImages("no image was sent")
            return jsonify({"object": "predictions", "job": job_id, "classes": model.classes, "predictions": answers})


def _places() -> PredictionPlaces:
    found: PredictionPlaces = current_app.extensions[EXTENSION]
    return found


# --- the model --------------------------------------------------------------------------------------------------------


_models = ModelCache(MAX_MODEL_BYTES)


def find_model(job_id: str) -> Callable[[], Model]:
    """The function that loads the model of this job. Raises NotFound, WrongState and NotBuilt."""
    with services().database.read() as session:
        job = jobs.get(session, job_id)
        if job.state != JobState.SUCCEEDED:
            detail = f"job {job_id} is {job.state}; only a job that has succeeded has a model"
            raise WrongState(detail, state=str(job.state), allowed=[])
        description, weights = (jobs.artifact(session, job_id, name) for name in ("model.json", "model.safetensors"))
    if weights.size_bytes > MAX_MODEL_BYTES:
        detail = f"the model has {weights.size_bytes} bytes; models of at most {MAX_MODEL_BYTES} bytes are served"
        raise NotBuilt([FieldError("", "model_too_large", f"{detail}; download it and run its predict.py")])
    return lambda: _loaded(description, weights)


def _loaded(description: ArtifactRow, weights: ArtifactRow) -> Model:
    """The model in the cache, read into it if it is not there, in one of the few places for that. Raises NotBuilt,
    NotFound and TooManyPredictions."""
    key = weights.sha256 + description.sha256
    if (model := _models.find(key)) is not None:
        return model
    places = _places()
    with places.taken(places.loading, principal().owner):
        return _models.get(key, lambda: _load(description, weights))


def _load(description: ArtifactRow, weights: ArtifactRow) -> Model:
    from safetensors.numpy import load

    transfers.will_use_store()
    try:
        model = Model(json.loads(_bytes_of(description)), load(_bytes_of(weights)))
    except inference.Refused as error:
        raise NotBuilt([FieldError("", "not_built", str(error))]) from error
    check_model(model)
    return model


def _bytes_of(row: ArtifactRow) -> bytes:
    try:
        return services().store.read_checked(row.key, row.sha256)
    except FileNotFoundError as error:
        raise NotFound(f"the file {row.name} of job {row.job_id} has been removed") from error


# --- the images in the request ----------------------------------------------------------------------------------------


class Sent:
    """The received body, or form, of this request. Raises UnsupportedMediaType, BadRequest and InvalidImages."""

    def __init__(self, invert: bool) -> None:
        self.invert = invert
        self.white: float | None = None
        self.body = b""
        self.is_form = request.mimetype == FORM
        if self.is_form:
            read_body()  # a body that ends too early, or has malformed chunks, is told as for JSON
            self.files = [file for _, file in request.files.items(multi=True)]
            self._read_fields()
        elif request.mimetype in (JSON, URLENCODED, *BINARY):
            self.body = read_body()
        else:
            got = request.mimetype or "none"
            raise UnsupportedMediaType(f"send JSON, a PNG or JPEG, an npz, or a form with files; got {got}")

    def parts(self, reader: Reader) -> Iterator[tuple[Array, str | None]]:
        """Images (N,C,H,W), with the name of their file if there is a form."""
        if self.is_form:
            yield from self._parts_of_files(reader)
        elif request.mimetype == JSON or (kind_of(self.body) is None and self.body.lstrip().startswith(b"{")):
            # by its first bytes: curl sends the media type of a form by default
            yield from ((part, None) for part in reader.of_json(self.body))
        else:
            yield from ((part, None) for part in reader.of_file(self.body, None))

    def _parts_of_files(self, reader: Reader) -> Iterator[tuple[Array, str | None]]:
        for i, file in enumerate(self.files):
            name = file.filename or f"file {i + 1}"
            check_file_name(name, f"/files/{i}")
            try:
                yield from ((part, name) for part in reader.of_file(file.read(), self.white, name))
            except InvalidImages as error:
                raise InvalidImages(f"{name}: {error.detail}", f"/files/{i}") from error

    def _read_fields(self) -> None:
        form = request.form
        if unknown := [name for name in form if name not in ("invert", "white")]:
            detail = f"unknown field {unknown[0][:80]!r}; a form has files, `invert` and `white`"
            raise InvalidImages(detail, "/" + unknown[0][:80])
        inverted = form.get("invert", "false").lower()
        if inverted not in ("true", "false", "1", "0"):
            raise InvalidImages(f"invert must be true or false, got {inverted[:20]!r}", "/invert")
        self.invert = self.invert or inverted in ("true", "1")
        self.white = _white(form.get("white"))


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
