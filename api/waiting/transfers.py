"""Transfers: requests whose thread waits for data from or to a client, or for a store that is not a folder of this
machine. How many there may be, in total and per owner.

A body that has not arrived with its head, and a response that is larger than a socket's buffer, need a place before
they begin: without a free one the answer is a 503. Whatever else turns out to wait for its client takes one then; the
connection is closed if there is none. A request has its place until it ends, a stream until the write has ended.

A store on another machine may be slow or not answer, so whatever asks it takes a place before: reads, uploads,
predictions, and the removal of files, which is left for later without one.
"""

from __future__ import annotations

import functools

from flask import Flask, Response, current_app, request

from api.access.auth import UNIDENTIFIED, principal
from api.connections.client_socket import ClientSocket
from api.connections.places import Places
from api.http.errors import render_error
from api.services import services
from api.waiting import disconnects
from shared.config import Settings
from shared.errors import TooManyTransfers

EXTENSION = "gradq.transfers"
SMALL_BYTES = 64 << 10  # of a response that needs no place: the kernel's buffer takes it
SHARE = 0.5  # of the places, at most, for one owner
STRANGERS, STRANGERS_SHARE = "", 0.25  # all requests without a token together, at the few routes that need none


def register(app: Flask, settings: Settings) -> None:
    app.extensions[EXTENSION] = Places(settings.transfers)
    app.before_request(_begin)
    app.after_request(_refuse_large)


def will_use_store(size: int = 0) -> None:
    """Take a place for this request before it asks the store, or sends `size` bytes from it: if they are many, or the
    store is not a folder of this machine and may be slow. Raises TooManyTransfers."""
    if size > SMALL_BYTES or _may_be_slow():
        _need()


def will_stream() -> None:
    """Take a place for this request before it sends a large response that is made while it is sent, whose size is not
    known. Raises TooManyTransfers."""
    if request.method == "GET":
        _need()


def may_use_store() -> bool:
    """As `will_use_store()`, for what can be done later. Returns False where that raises."""
    return not _may_be_slow() or _has_place()


def take_place() -> None:
    """Take a place for this request before it computes for as long as a transfer takes. Raises TooManyTransfers."""
    _need()


def begin_to_wait() -> None:
    """End the turn of this request, which has a place of another kind, where it may wait or compute for long."""
    client = disconnects.of_this_request()
    if isinstance(client, ClientSocket):
        client.begin_to_wait()


def _may_be_slow() -> bool:
    return services().store.local_path("") is None


def _begin() -> None:
    """Before the view: what this request may wait for. Raises TooManyTransfers for a body that is still arriving."""
    client = disconnects.of_this_request()
    if isinstance(client, ClientSocket):
        places: Places = current_app.extensions[EXTENSION]
        client.take_place = functools.partial(places.enter, *_share())
        client.owner = principal().owner
        if client.is_body_incoming:
            _need()


def _share() -> tuple[str | None, float]:
    who = principal()
    if who is UNIDENTIFIED:
        return STRANGERS, STRANGERS_SHARE
    return who.owner, 1.0 if who.owner is None else SHARE


def _need() -> None:
    if not _has_place():
        raise TooManyTransfers(
            "too many uploads, downloads and other requests that wait for the store are in progress, of this owner or "
            f"of all; retry in {TooManyTransfers.retry_after_seconds} s (GRADQ_TRANSFERS)"
        )


def _has_place() -> bool:
    """Whether this request has a place, if need be after taking one. Without gunicorn nothing is limited."""
    client = disconnects.of_this_request()
    return not isinstance(client, ClientSocket) or client.enter()


def _refuse_large(response: Response) -> Response:
    """A large response to a GET needs a place. Other methods have taken effect, and their responses are sent anyway."""
    if request.method == "GET" and (response.content_length or 0) > SMALL_BYTES:
        try:
            _need()
        except TooManyTransfers as error:
            response.close()
            return render_error(error)
    return response
