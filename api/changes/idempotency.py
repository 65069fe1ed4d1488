"""`Idempotency-Key`: a POST that is sent again gets the answer of the first time, and nothing is done twice.

First the key is claimed, in a transaction of its own and for a short time. Then the view runs, and its answer is
settled in the very transaction that does what was asked: both are committed or neither, whatever dies in between.
An error gives the key back, since nothing has happened.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import structlog
from flask import Response, g, make_response, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from api.access.auth import owner_filter, principal
from api.http.requests import idempotency_key, read_body
from api.services import services
from shared import idempotency
from shared.errors import DatabaseAway, IdempotencyInProgress
from shared.idempotency import Claim, Settled

REPLAYED = "Idempotent-Replayed"
KEPT_HEADERS = ("Content-Type", "Location")

log = structlog.get_logger()


def once(view: Callable[..., ResponseReturnValue]) -> Callable[..., Response]:
    """For a POST whose body is read whole."""

    @functools.wraps(view)
    def held(**arguments: Any) -> Response:
        return answer_once(_body, functools.partial(view, **arguments))

    return held


def answer_once(content: Callable[[], bytes], view: Callable[[], ResponseReturnValue]) -> Response:
    """The first answer to this request's key, if there is one; else what `view` answers. `content`: what makes the
    body the same body."""
    key = idempotency_key()
    if key is None:
        return make_response(view())
    fingerprint = _fingerprint(content())
    with services().database.write() as session:
        found = idempotency.claim(session, key, fingerprint, principal().owner or "")
    if isinstance(found, Settled):
        return _replay(found)
    g.claim = found
    try:
        response = make_response(view())
        if "claim" in g:  # the view changed nothing, or nothing that a second time would not do again
            with services().database.write() as session:
                settle(session, response)
    except Exception:
        _give_back(found)
        raise
    return response


def settle(session: Session, response: Response) -> None:
    """Keep the answer under this request's key, if it has one. In the transaction that does what the answer says."""
    claim: Claim | None = g.pop("claim", None)
    if claim is None:
        return
    g.settled = claim
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    answer = Settled(response.status_code, headers, response.get_data(as_text=True))
    if not idempotency.settle(session, claim, answer):
        raise IdempotencyInProgress("this request took so long that another one with the same key took its place")


def amend(response: Response) -> None:
    """Keep this answer instead of the one that was settled: it also says what came out after the transaction."""
    if "settled" in g:
        with services().database.write() as session:
            idempotency.amend(session, g.settled, response.get_data(as_text=True))


def _give_back(claim: Claim) -> None:
    try:
        with services().database.write() as session:
            idempotency.release(session, claim)
    except DatabaseAway as error:  # then it runs out
        log.warning("an idempotency key was not given back", error=error.detail)


def _replay(first: Settled) -> Response:
    return Response(first.body, first.status, {**first.headers, REPLAYED: "true"})


def _fingerprint(content: bytes) -> str:
    reach = (
        "everybody's " if principal().owner is not None and owner_filter() is None else ""
    )  # what an admin saw, he sees alone
    line = f"{reach}{request.method} {request.full_path}\n"
    return hashlib.sha256(line.encode() + content).hexdigest()


def _body() -> bytes:
    """A form's boundary is drawn anew each time that it is sent, and says nothing."""
    boundary = request.mimetype_params.get("boundary", "")
    return read_body().replace(boundary.encode(), b"") if boundary else read_body()
