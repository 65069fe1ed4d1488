"""One handler for every error: whatever was raised becomes application/problem+json (RFC 9457)."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Flask, Response, g, json, request
from werkzeug.exceptions import HTTPException, InternalServerError

from shared.errors import (
    DatabaseAway,
    FieldError,
    GradqError,
    InsufficientScope,
    InvalidSpec,
    TokenMissing,
    Unauthenticated,
)

PROBLEM = "application/problem+json"
BEARER = 'Bearer realm="gradq"'
RETRY_SECONDS = 2  # what a client is asked to wait for a database that is away

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
    """The contract names it and this version does not build it: refused by name, never ignored."""

    code, title = "not_built", "This version does not build what was asked for"


class InvalidImages(InvalidSpec):
    """What was sent to be looked at is no image, or none that the model takes."""

    code, title = "invalid_images", "The images cannot be used"

    def __init__(self, detail: str, pointer: str = "", errors: list[FieldError] | None = None) -> None:
        super().__init__(errors or [FieldError(pointer, self.code, detail)])
        self.detail = detail


def register(app: Flask) -> None:
    app.register_error_handler(Exception, render_error)


def render_error(error: Exception) -> Response:
    if isinstance(error, DatabaseAway):
        log.warning("database away", error=error.detail, request_id=request_id())
        detail = f"{error.title}; ask again in {RETRY_SECONDS} s"  # the driver's words name hosts and users
        response = problem(error.status, error.code, error.title, detail)
        response.headers["Retry-After"] = str(RETRY_SECONDS)
        return response
    if isinstance(error, GradqError) and error.status != GradqError.status:
        response = problem(error.status, title=error.title, **members(error))
        if error.retry_after_seconds is not None:
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        if isinstance(error, Unauthenticated | InsufficientScope):
            response.headers["WWW-Authenticate"] = _challenge(error)
        return response
    if isinstance(error, HTTPException) and error.code is not None and error.code < 500:
        return _from_werkzeug(error)
    log.error("request failed", exc_info=error, path=request.path, request_id=request_id())
    return problem(500, GradqError.code, GradqError.title, "the log of the API holds the details under this request_id")


def _challenge(error: GradqError) -> str:
    """As RFC 6750 has it: who sent no token is told no error."""
    if isinstance(error, TokenMissing):
        return BEARER
    if isinstance(error, InsufficientScope):
        return f'{BEARER}, error="insufficient_scope", scope="{error.extra["scope"]}"'
    return f'{BEARER}, error="invalid_token"'


def _from_werkzeug(error: HTTPException) -> Response:
    if isinstance(error.response, Response):  # one of ours already: api/access/rates.py
        return error.response
    status = error.code or InternalServerError.code
    detail = {
        404: f"there is nothing at {request.path}",
        405: f"{request.method} is not allowed at {request.path}",
    }.get(status, error.description or error.name)
    response = problem(status, CODES.get(status, "http_error"), error.name, detail)
    for name, value in error.get_headers(request.environ):
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value  # Allow, Content-Range
    return response


def members(error: GradqError) -> dict[str, Any]:
    """What an error says of itself: code, detail, and what its kind adds."""
    wrong = {"errors": [field.to_json() for field in error.errors]} if isinstance(error, InvalidSpec) else {}
    return {"code": error.code, "detail": error.detail, **error.extra, **wrong}


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
    """None for what fails before the request got its id."""
    return g.get("request_id")
