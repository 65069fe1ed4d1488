"""Text from outside becomes checked values here: JSON bodies and query strings. Names everything wrong at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from flask import request
from gunicorn.http.errors import ParseException
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from shared.errors import BadRequest, FieldError, InvalidBody, InvalidHeader, InvalidQuery, NotFound
from shared.validation_errors import field_error

JSON = "application/json"
LABELS = "label."  # a model with a field of this alias takes label.KEY=value into it
MAX_KEY = 255  # characters of an Idempotency-Key
NUL = "\x00"  # PostgreSQL refuses it in any text
NO_NUL = r"^[^\x00]*$"
NUMBER = re.compile(r"\s*[+-]?[\d.]+\s*")


class Query(BaseModel):
    """The parameters of one call. Text in, so numbers are read out of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NoQuery(Query):
    """This call takes no parameters."""


Q = TypeVar("Q", bound=Query)
B = TypeVar("B", bound=BaseModel)
CommaList = BeforeValidator(lambda text: text.split(",") if isinstance(text, str) else text)


def _no_number(given: Any) -> Any:
    """A bare number would be read as the seconds since 1970."""
    if isinstance(given, int | float) or (isinstance(given, str) and NUMBER.fullmatch(given)):
        raise ValueError("must be a time with its zone, as 2026-11-23T12:00:00Z")
    return given


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from error


UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_no_number)]


# --- the query string and the rest of the request line ----------------------------------------------------------------


def parse_query(model: type[Q]) -> Q:
    errors, values = [], {}
    for name, given in request.args.lists():
        if len(given) > 1:
            errors.append(FieldError(_pointer(name), "repeated", "must stand once"))
        elif NUL in name + given[0]:
            errors.append(FieldError(_pointer(name), "nul", "must not hold a NUL character"))
        else:
            values[name] = given[0]
    try:
        checked = model.model_validate(_gather_labels(model, values))
    except ValidationError as error:
        errors += [_query_error(model, e) for e in error.errors(include_url=False)]
    if errors:
        raise InvalidQuery(errors)
    return checked


def check_path(values: dict[str, Any]) -> None:
    if any(NUL in str(value) for value in values.values()):
        raise NotFound("no name here holds a NUL character")


def check_headers() -> None:
    idempotency_key()


def idempotency_key() -> str | None:
    """What the client calls this POST, so that it can be sent again; None for one that is sent once."""
    key = request.headers.get("Idempotency-Key")
    if request.method != "POST" or key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY or NUL in key:
        detail = f"must be a text of 1 to {MAX_KEY} characters, got {len(key)}; a UUID is a good one"
        raise InvalidHeader([FieldError("/Idempotency-Key", "length", detail)])
    return key


def _aliases(model: type[Query]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _gather_labels(model: type[Query], values: dict[str, str]) -> dict[str, Any]:
    if LABELS not in _aliases(model):
        return dict(values)
    labels = {name.removeprefix(LABELS): value for name, value in values.items() if name.startswith(LABELS)}
    return {**{name: value for name, value in values.items() if not name.startswith(LABELS)}, LABELS: labels}


def _query_error(model: type[Query], error: ErrorDetails) -> FieldError:
    name, *below = (str(part) for part in error["loc"])
    if name == LABELS and below:
        name += below[0]
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return FieldError(_pointer(name), kind, f"unknown parameter{close_to(name, _aliases(model))}")
    text = error["msg"]
    for theirs, ours in (("Input should be", "must be"), ("String should", "must"), ("Value error, ", "")):
        text = text.replace(theirs, ours)
    return FieldError(_pointer(name), kind, f"{text}, got {json.dumps(value, default=str)[:80]}")


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def close_to(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or nothing."""
    guess = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{guess[0]}'?" if guess else ""


# --- the body ---------------------------------------------------------------------------------------------------------


def parse_body(model: type[B], *also: str, unknown: str | None = None) -> B:
    """The request's JSON as `model`. `also`: other media types that it may be sent as; `unknown`: what is said of a
    field that the model has not."""
    try:
        return model.model_validate(parse_json(*also))
    except ValidationError as error:
        wrong = [field_error(model, e) for e in error.errors(include_url=False)]
        if unknown is not None:
            wrong = [replace(e, detail=unknown) if e.code == "extra_forbidden" else e for e in wrong]
        raise InvalidBody(wrong) from error


def parse_json(*also: str) -> Any:
    """The request's JSON. `curl -d '{…}'` calls its body a form; a form that starts with `{` is taken for JSON."""
    body = read_body()
    is_form = request.mimetype == "application/x-www-form-urlencoded"
    if request.mimetype not in (JSON, *also) and not (is_form and body.lstrip().startswith(b"{")):
        got = request.mimetype or "none"
        raise UnsupportedMediaType(f"send JSON, with Content-Type: application/json; got {got}")
    return from_json(body)


def read_body() -> bytes:
    try:
        body = request.get_data()  # kept: whoever told one request from another has read it before the view does
    except (OSError, ParseException) as error:  # gunicorn's: it reads the chunks while the app reads the body
        raise BadRequest("the body cannot be read: it is cut short, or sent in chunks that are none") from error
    if body:
        refuse_encoded()
    limit = request.max_content_length
    if request.content_length is None and limit is not None and len(body) >= limit:
        raise RequestEntityTooLarge  # sent in chunks: werkzeug does not refuse what lies over the limit, it cuts it off
    return body


def refuse_encoded() -> None:
    """Nothing here unpacks a body: what gzip makes of a few bytes has no limit that could be told beforehand."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaType(f"send the body as it is, without Content-Encoding; got {coding[:40]}")


def from_json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} cannot be read") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits, which Python does not read
        raise BadRequest(f"the body holds a number that cannot be read: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON leaves open which of two equal keys counts; a training job should not depend on it."""
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"the body is ambiguous: the key {json.dumps(twice)} stands twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise BadRequest(f"the body is not JSON: {name} is not a JSON number")
