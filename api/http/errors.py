"""One handler for all errors: each exception becomes an application/problem+json response (RFC 9457)."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Response, g, json, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, InternalServerError

from api.services import services
from shared import logs
from shared.disks import disk_is_full, disk_is_unusable
from shared.errors import (
    MAX_DETAIL,
    BadRequest,
    DatabaseAway,
    DiskFull,
    FieldError,
    GradqError,
    InsufficientScope,
    InvalidSpec,
    SchemaMismatch,
    StoreUnavailable,
    TokenMissing,
    Unauthenticated,
    cut,
)

PROBLEM = "application/problem+json"
BEARER = 'Bearer realm="gradq"'
RETRY_SECONDS = 2  # Retry-After while the database is unreachable
NO_ROOM = "the disk has no room for this request; retry later, or free some space"
NO_DISK = "the disk for this request cannot be used; retry later. The API's log has its error"

CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "payload_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
}

log = structlog.get_logger()


class NotBuilt(InvalidSpec):
    """The contract has it, but this version does not implement it."""

    code, title = "not_built", "Not supported by this version"


class InvalidImages(InvalidSpec):
    """Images sent for prediction that cannot be read or do not fit the model."""

    code, title = "invalid_images", "The images cannot be used"

    def __init__(self, detail: str, pointer: str = "", errors: list[FieldError] | None = None, more: int = 0) -> None:
        super().__init__(errors or [FieldError(pointer, self.code, detail)], more)
        self.detail = detail


def render_error(error: Exception) -> Response:
    if isinstance(error, SQLAlchemyError):
        error = _schema_mismatch() or error
    if isinstance(error, DatabaseAway):
        log.warning("database away", error=error.detail, request_id=request_id())
        # the driver's message names hosts and users
        detail = error.detail if isinstance(error, SchemaMismatch) else f"{error.title}; retry in {RETRY_SECONDS} s"
        response = problem(error.status, error.code, error.title, detail)
        response.headers["Retry-After"] = str(RETRY_SECONDS)
        return response
    if isinstance(error, StoreUnavailable):
        log.warning("store unavailable", error=error.detail, request_id=request_id())
        detail = f"{error.title}; retry in {error.retry_after_seconds} s"  # the library's message names hosts and keys
        response = problem(error.status, error.code, error.title, detail)
        response.headers["Retry-After"] = str(error.retry_after_seconds)
        return response
    if _is_of_the_disk(error):
        full = disk_is_full(error)
        log.error("disk full" if full else "disk unusable", error=str(error), request_id=request_id())
        error = DiskFull(NO_ROOM if full else NO_DISK)
    if isinstance(error, GradqError) and error.status != GradqError.status:
        response = problem(error.status, title=error.title, **members(error))
        if error.retry_after_seconds is not None:
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        if isinstance(error, Unauthenticated | InsufficientScope):
            response.headers["WWW-Authenticate"] = _challenge(error)
        return response
    if isinstance(error, HTTPException) and error.code is not None and error.code < 500:
        return _from_werkzeug(error)
    path = logs.cut(request.path, logs.LONGEST_PATH)
    log.error("request failed", exc_info=error, path=path, request_id=request_id())
    return problem(500, GradqError.code, GradqError.title, "the API's log has the details under this request_id")


def _is_of_the_disk(error: Exception) -> bool:
    """Whether a disk that cannot be used raised it, also through an error that takes the file for truncated. Its own
    text does not count, since that may quote the client, nor the connection of a body that ends too early."""
    cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    return isinstance(cause, OSError) and disk_is_unusable(cause) and not isinstance(error, BadRequest)


def _schema_mismatch() -> DatabaseAway | None:
    """Why a query failed that is correct for the right schema, if the database has another or cannot be reached."""
    try:
        services().schema.check(fresh=True)
    except DatabaseAway as error:
        return error
    except SQLAlchemyError as error:
        log.warning("the schema's revision cannot be read", error=str(error))
    return None


def _challenge(error: GradqError) -> str:
    """The WWW-Authenticate header; without a token it names no error (RFC 6750, section 3.1)."""
    if isinstance(error, TokenMissing):
        return BEARER
    if isinstance(error, InsufficientScope):
        return f'{BEARER}, error="insufficient_scope", scope="{error.extra["scope"]}"'
    return f'{BEARER}, error="invalid_token"'


def _from_werkzeug(error: HTTPException) -> Response:
    if isinstance(error.response, Response):  # already rendered by api/access/rates.py
        return error.response
    status = error.code or InternalServerError.code
    detail = {
        404: f"no resource at {request.path}",
        405: f"{request.method} is not allowed at {request.path}",
    }.get(status, error.description or error.name)
    response = problem(status, CODES.get(status, "http_error"), error.name, detail)
    for name, value in error.get_headers(request.environ):
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value  # Allow, Content-Range
    return response


def members(error: GradqError) -> dict[str, Any]:
    """The members of an error: code, detail, and those that its class adds. `more_errors` is the number of wrong fields
    beyond those in `errors`."""
    wrong: dict[str, Any] = {}
    if isinstance(error, InvalidSpec):
        wrong["errors"] = [field.to_json() for field in error.errors]
        if error.more:
            wrong["more_errors"] = error.more
    extra = {name: cut(value, MAX_DETAIL) if isinstance(value, str) else value for name, value in error.extra.items()}
    return {"code": error.code, "detail": cut(error.detail, MAX_DETAIL), **extra, **wrong}


def problem(status: int, code: str, title: str, detail: str, **extra: Any) -> Response:
    body = {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": request.path,
        "request_id": request_id(),
        **extra,
    }
    return Response(json.dumps(body), status, mimetype=PROBLEM)


def request_id() -> str | None:
    """The id of this request; None if it failed before it had one."""
    return g.get("request_id")
