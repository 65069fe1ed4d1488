"""Parses and validates JSON bodies, query strings and headers; reports all wrong fields at once."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from flask import request
from gunicorn.http.errors import ParseException
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import UnsupportedMediaType

from shared.errors import (
    BadRequest,
    FieldError,
    InvalidBody,
    InvalidHeader,
    InvalidQuery,
    NotFound,
    PayloadTooLarge,
)
from shared.plain_text import PLAIN, refusal
from shared.validation_errors import did_you_mean, field_errors

JSON = "application/json"
LABELS = "label."  # a model's field with this alias collects the parameters label.KEY=value
MAX_KEY = 255  # characters of an Idempotency-Key
NAME_SHOWN = 80  # characters of a name from the body in an error
NUL = "\x00"  # PostgreSQL does not store it in text
BOM = b"\xef\xbb\xbf"  # some editors on Windows write it before a text
NO_NUL = r"^[^\x00]*$"
NUMBER = re.compile(r"\s*[+-]?[\d.]+\s*")


class Query(BaseModel):
    """The query parameters of one call; numbers are parsed from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NoQuery(Query):
    """This call takes no parameters."""


Q = TypeVar("Q", bound=Query)
B = TypeVar("B", bound=BaseModel)
R = TypeVar("R")
CommaList = BeforeValidator(lambda text: text.split(",") if isinstance(text, str) else text)


def _refuse_number(given: Any) -> Any:
    """Refuses a bare number, which pydantic would read as seconds since 1970."""
    if isinstance(given, int | float) or (isinstance(given, str) and NUMBER.fullmatch(given)):
        raise ValueError("must be a time with a time zone, such as 2026-11-23T12:00:00Z")
    return given


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must be between the years 1 and 9999 in UTC") from error


UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_refuse_number)]


# --- the query string and the rest of the request line ----------------------------------------------------------------


def parse_query(model: type[Q]) -> Q:
    errors, values = [], {}
    for name, given in request.args.lists():
        if len(given) > 1:
            errors.append(FieldError(_pointer(name), "repeated", "must be given only once"))
        elif NUL in name + given[0]:
            errors.append(FieldError(_pointer(name), "nul", "must not contain a NUL character"))
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
        raise NotFound("no name contains a NUL character")


def check_headers() -> None:
    idempotency_key()


def idempotency_key() -> str | None:
    """The Idempotency-Key of a POST; None without one. Raises InvalidHeader."""
    key = request.headers.get("Idempotency-Key")
    if request.method != "POST" or key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY or NUL in key:
        detail = f"must have 1 to {MAX_KEY} characters and no NUL, got {len(key)}; use a UUID"
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
        return FieldError(_pointer(name), kind, f"unknown parameter{did_you_mean(name, _aliases(model))}")
    text = error["msg"]
    if kind == "string_pattern_mismatch" and error["ctx"]["pattern"] == PLAIN:
        text = refusal(value) or text
    for theirs, ours in (("Input should be", "must be"), ("String should", "must"), ("Value error, ", "")):
        text = text.replace(theirs, ours)
    return FieldError(_pointer(name), kind, f"{text}, got {json.dumps(value, default=str)[:80]}")


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


# --- the body ---------------------------------------------------------------------------------------------------------


def parse_body(model: type[B], *also: str, unknown: str | None = None) -> B:
    """The request's JSON as `model`. `also`: further media types that are accepted; `unknown`: the message for a field
    that the model does not have. Raises BadRequest, UnsupportedMediaType and InvalidBody."""
    try:
        return model.model_validate(parse_json(*also))
    except ValidationError as error:
        wrong, more = field_errors(model, error)
        if unknown is not None:
            wrong = [replace(e, detail=unknown) if e.code == "extra_forbidden" else e for e in wrong]
        raise InvalidBody(wrong, more) from error


def parse_json(*also: str) -> Any:
    """The request's JSON. `curl -d '{…}'` sends the media type of a form; a form that starts with `{` is read as
    JSON."""
    body = read_body()
    is_form = request.mimetype == "application/x-www-form-urlencoded"
    if request.mimetype not in (JSON, *also) and not (is_form and body.removeprefix(BOM).lstrip().startswith(b"{")):
        got = request.mimetype or "none"
        raise UnsupportedMediaType(f"send JSON with Content-Type: application/json; got {got}")
    return from_json(body)


def limit_body(most: int) -> None:
    """Set the limit of this request's body, in bytes. Raises PayloadTooLarge if its Content-Length is larger; a chunked
    body is counted by `read_body`."""
    request.max_content_length = most
    if (request.content_length or 0) > most:
        raise body_too_large(most)


def body_limit(most: int) -> Callable[[Callable[[], R]], Callable[[], R]]:
    """Decorator of a view without a contract: the limit of the request's body, in bytes."""

    def decorate(view: Callable[[], R]) -> Callable[[], R]:
        @functools.wraps(view)
        def limited() -> R:
            limit_body(most)
            return view()

        limited.body_bytes = most  # type: ignore[attr-defined]
        return limited

    return decorate


def body_too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {most} bytes, the limit of this call", limit_bytes=most)


def read_body() -> bytes:
    """The request's body. Raises BadRequest, UnsupportedMediaType and PayloadTooLarge."""
    try:
        body = request.get_data()  # cached: the idempotency fingerprint reads it before the view does
    except (OSError, ParseException) as error:  # gunicorn parses the chunks while the app reads the body
        raise BadRequest(
            "the body cannot be read: it is truncated, or has malformed chunked transfer encoding"
        ) from error
    if body:
        refuse_encoded()
    limit = request.max_content_length
    if request.content_length is None and limit is not None and len(body) >= limit:
        raise body_too_large(limit)  # of a chunked body, werkzeug cuts off what exceeds the limit and raises nothing
    return body


def refuse_encoded() -> None:
    """Refuse a Content-Encoding: a few compressed bytes can unpack to any size."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaType(f"send the body uncompressed, without Content-Encoding; got {coding[:40]}")


def from_json(body: bytes) -> Any:
    try:
        return json.loads(
            body.removeprefix(BOM).decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: invalid byte at position {error.start}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits, which Python refuses
        raise BadRequest(f"the body contains a number that cannot be read: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys: JSON does not define which one counts (RFC 8259, section 4)."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadRequest(f"the body is ambiguous: duplicate key {json.dumps(twice[:NAME_SHOWN])} in an object")
    return result


def _no_constant(name: str) -> None:
    raise BadRequest(f"the body is not JSON: {name} is not a JSON number")
