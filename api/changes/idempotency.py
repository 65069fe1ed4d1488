"""`Idempotency-Key`: a repeated POST gets the response of the first one, and is not executed again.

The key is first claimed, in a transaction of its own and for a limited time. Then the view runs, and its response is
stored in the transaction of the change, so both are committed or neither. An error releases the key, since nothing has
changed.

A view that may be executed again does not store its response itself: a dry run, and an upload, whose repetition is the
same dataset. Its response is stored afterwards. If it is too large, the key is released instead, and the request is
executed again when it is repeated.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import structlog
from flask import Response, current_app, g, make_response, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from api.access.auth import owner_filter, principal
from api.changes.kept_responses import KeptResponses
from api.http.requests import idempotency_key, read_body
from api.services import services
from shared import idempotency
from shared.errors import DatabaseAway, IdempotencyInProgress, PayloadTooLarge
from shared.idempotency import Claim, Settled

REPLAYED = "Idempotent-Replayed"
MAX_KEPT_BYTES = 1 << 20  # of a stored response; a bulk call on a thousand jobs has some 170 KB
EXTENSION = "gradq-kept-responses"
KEPT_HEADERS = ("Content-Type", "Location")

log = structlog.get_logger()


def once(view: Callable[..., ResponseReturnValue]) -> Callable[..., Response]:
    """Decorator of a POST view whose body is read into memory: handles the Idempotency-Key."""

    @functools.wraps(view)
    def wrapped(**arguments: Any) -> Response:
        return answer_once(_body, functools.partial(view, **arguments))

    return wrapped


def answer_once(content: Callable[[], bytes], view: Callable[[], ResponseReturnValue]) -> Response:
    """The stored response to this request's key, or else that of `view`. `content`: the bytes that identify the body.
    A view whose change must not be made twice calls `settle` in the transaction of the change.
    Raises IdempotencyInProgress and IdempotencyKeyReused."""
    key = idempotency_key()
    if key is None:
        return make_response(view())
    fingerprint = _fingerprint(content())
    owner = principal().owner or ""
    with services().database.write() as session:
        found = idempotency.claim(session, key, fingerprint, owner)
    if isinstance(found, Settled):
        return _replay(found)
    g.claim = found
    try:
        _kept().check(owner)
        response = make_response(view())
        if "claim" in g:  # the view has not settled it: its change, if any, may be repeated
            _settle_or_release(found, response)
    except Exception:
        _release(found)
        raise
    return response


def _settle_or_release(claim: Claim, response: Response) -> None:
    """Store the response, or release the key if it is too large: to refuse it would hide a change that is made."""
    if _size(response) > MAX_KEPT_BYTES:
        g.pop("claim")
        _release(claim)
        return
    with services().database.write() as session:
        settle(session, response)


def settle(session: Session, response: Response) -> None:
    """Store the response under this request's key, if it has one, in the transaction of the change. Raises
    PayloadTooLarge for a response that is too large to be stored, so that the change is not made."""
    claim: Claim | None = g.pop("claim", None)
    if claim is None:
        return
    size = _size(response)
    if size > MAX_KEPT_BYTES:
        detail = f"the response would have {size} bytes, and at most {MAX_KEPT_BYTES} are stored for a key"
        raise PayloadTooLarge(f"{detail}; nothing was changed. Send fewer ids per call, or no Idempotency-Key")
    g.settled = claim
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    answer = Settled(response.status_code, headers, response.get_data(as_text=True))
    if not idempotency.settle(session, claim, answer):
        raise IdempotencyInProgress("this request took too long, and another one with the same key has replaced it")
    _kept().add(claim.owner, size)


def _size(response: Response) -> int:
    return len(response.get_data())


def _kept() -> KeptResponses:
    found: KeptResponses = current_app.extensions[EXTENSION]
    return found


def amend(response: Response) -> None:
    """Replace the stored response, with results that are known only after the transaction."""
    if "settled" in g:
        with services().database.write() as session:
            idempotency.amend(session, g.settled, response.get_data(as_text=True))


def _release(claim: Claim) -> None:
    try:
        with services().database.write() as session:
            idempotency.release(session, claim)
    except DatabaseAway as error:  # the claim expires
        log.warning("an idempotency key was not released", error=error.detail)


def _replay(first: Settled) -> Response:
    return Response(first.body, first.status, {**first.headers, REPLAYED: "true"})


def _fingerprint(content: bytes) -> str:
    # the response to an admin may show other owners' jobs, and is replayed to admins only
    reach = "everybody's " if principal().owner is not None and owner_filter() is None else ""
    line = f"{reach}{request.method} {request.full_path}\n"
    return hashlib.sha256(line.encode() + content).hexdigest()


def _body() -> bytes:
    """The body without a form's boundary, which is random and differs when the form is sent again."""
    boundary = request.mimetype_params.get("boundary", "")
    return read_body().replace(boundary.encode(), b"") if boundary else read_body()
