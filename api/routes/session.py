"""The caller's identity, and the sign-in of browsers: the token is stored in a cookie that scripts cannot read and
that browsers do not send with cross-site requests."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.datastructures import MultiDict

from api.access import auth_throttle
from api.access.auth import COOKIE, authenticate, needs, principal
from api.dashboard.frame import asks_for_page
from api.dashboard.sign_in import path_of_ours, sign_in_page
from api.http.requests import body_limit, parse_body, read_body
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.services import services
from shared.errors import FieldError, InvalidBody, RateLimited, TokenInvalid, Unauthenticated
from shared.jobs import stored_bytes
from shared.tokens import SCOPES

BODY_BYTES = 8 << 10  # a token, and the path of a page with its filters
FORM = "application/x-www-form-urlencoded"

bp = Blueprint("session", __name__)


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=1024)


@bp.get("/v1/whoami")
@endpoint(schemas.WhoAmI, scope="read", name="show_whoami", errors=(503,))
def whoami() -> Response:
    """Show the owner, scopes and token of the caller, and what the owner stores and may store"""
    who = principal()
    with services().database.read() as session:
        used = stored_bytes.used_by(session, who.owner)
    return jsonify(
        {
            "object": "principal",
            "owner": who.owner,
            "scopes": [scope for scope in SCOPES if who.may(scope)],
            "token_id": who.token_id,
            "max_priority": who.max_priority,
            "storage": {
                "used_bytes": sum(used.values()),
                "limit_bytes": services().settings.owner_bytes,
                **used,
            },
        }
    )


@bp.post("/session")
@needs(None)
@body_limit(BODY_BYTES)
def sign_in() -> Response:
    """Set the cookie. JSON `{"token": "…"}` is answered with 204, a form with a redirect to its `next`; a wrong token
    with 401, or for a form with the sign-in page again."""
    form = _form()
    try:
        token = _token(form)
        _check(token)
    except (Unauthenticated, InvalidBody, RateLimited) as error:
        if form is None or not asks_for_page():
            raise
        detail = error.errors[0].detail if isinstance(error, InvalidBody) else error.detail
        return sign_in_page(form.get("next", "/"), detail)
    response = Response(status=204)
    if form is not None:
        response.status_code, response.location = 303, path_of_ours(form.get("next", "/"))
    response.set_cookie(COOKIE, token, **_attributes())
    return response


def _check(token: str) -> None:
    try:
        authenticate(token)
    except TokenInvalid:
        auth_throttle.count()
        raise


def _token(form: MultiDict[str, str] | None) -> str:
    text = parse_body(SignIn).token if form is None else form.get("token", "")
    if not text:
        raise InvalidBody([FieldError("/token", "missing", "paste a token; `gradq token create` makes one")])
    return text.strip()


@bp.delete("/session")
@needs(None)
@body_limit(BODY_BYTES)
def sign_out() -> Response:
    response = Response(status=204)
    response.delete_cookie(COOKIE, **_attributes())
    return response


def _form() -> MultiDict[str, str] | None:
    """The form of the request; None if it is JSON, also with the media type of a form, as curl sends it."""
    is_form = request.mimetype == FORM and not read_body().lstrip().startswith(b"{")
    return request.form if is_form else None


def _attributes() -> dict[str, Any]:
    """Attributes of the cookie. Without an expiry: it ends with the browser's session, and the token expires on the
    server. X-Forwarded-Proto is trusted from any client, since a false value only makes that client's cookie
    stricter."""
    scheme = request.headers.get("X-Forwarded-Proto", request.scheme).partition(",")[0].strip()
    return {
        "path": request.script_root or "/",
        "httponly": True,
        "samesite": "Strict",
        "secure": "https" in (scheme, request.scheme),
    }
