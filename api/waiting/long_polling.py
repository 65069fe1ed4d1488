"""Long polling: the limits on requests that are held open, and when such a request ends."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Annotated

from flask import Response, current_app, request
from pydantic import Field

from api.access import auth
from api.connections.client_socket import ClientSocket
from api.connections.places import Places
from api.http.requests import Query
from api.waiting import disconnects
from api.waiting.change_notifier import DISCONNECT_CHECK_SECONDS, ChangeNotifier, Predicate
from shared.config import Settings
from shared.db.database import Database
from shared.errors import TooManyStreams

EXTENSION = "gradq.long_polls"
LONGEST_SECONDS = 60
SHARE = 0.75  # of the places, at most, for one owner; the rest is left to others
TOKEN_SECONDS = 3.0  # between two checks of a held request's token
PREFERENCE = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', re.IGNORECASE)

# the response as of now, and which fingerprints would change it; None: there is nothing to wait for
Respond = Callable[[], tuple[Response, Predicate | None]]


class WaitQuery(Query):
    """The query parameters of a long poll."""

    wait: Annotated[float, Field(ge=0, le=LONGEST_SECONDS)] | None = Field(
        None, description="wait for a change for up to this many seconds; the header `Prefer: wait=30` does the same"
    )

    @property
    def seconds(self) -> float | None:
        """How long the client wants to wait; None: neither a parameter nor a header says so."""
        return preferred_seconds() if self.wait is None else self.wait


class LongPolls:
    """The places for held requests in this process. Each occupies a thread; there are fewer places than threads, so
    that other requests find one."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.notifier = ChangeNotifier(database, settings.lease_seconds)
        self._database = database
        self._places = Places(settings.held_requests)

    def place(self) -> Place | None:
        """A place for this request, to be left with `leave()`; None if all places, or all of this owner's share, are
        taken."""
        who = auth.principal()
        leave = self._places.enter(who.owner, 1.0 if who.owner is None else SHARE)
        if leave is None:
            return None
        token_is_valid = (lambda: auth.is_still_valid(who, self._database)) if who.can_end else None
        return Place(self.notifier, leave, disconnects.of_this_request(), token_is_valid)


class Place:
    """The place of one held request, which has a place of a transfer only during writes that wait for the client.
    `token_is_valid` checks the request's token; None if it has none that can end."""

    def __init__(
        self,
        notifier: ChangeNotifier,
        leave: Callable[[], None],
        client: socket.socket | None,
        token_is_valid: Callable[[], bool] | None,
    ) -> None:
        self._leave = leave
        self._notifier, self._client, self._token_is_valid = notifier, client, token_is_valid
        self._check_token_at = time.monotonic() + TOKEN_SECONDS
        if client is not None:
            disconnects.set_user_timeout(client)
        if isinstance(client, ClientSocket):
            client.leaves_after_write = True
            client.begin_to_wait()

    def leave(self) -> None:
        """Called once. The response to a long poll, which is sent after that, has a transfer's place until its end."""
        if isinstance(self._client, ClientSocket):
            self._client.leaves_after_write = False
        self._leave()

    def wait(self, job_id: str, predicate: Predicate, seconds: float) -> None:
        """As `ChangeNotifier.wait`, interrupted every TOKEN_SECONDS to check the token."""
        deadline = time.monotonic() + seconds
        longest = TOKEN_SECONDS if self._token_is_valid is not None else float("inf")
        while not self.over() and (left := deadline - time.monotonic()) > 0:
            if self._notifier.wait(job_id, predicate, min(left, longest), self._client):
                return

    def rest(self, seconds: float) -> None:
        """Sleep, for a stream that polls by itself; returns within DISCONNECT_CHECK_SECONDS once the place is
        `over()`."""
        end = time.monotonic() + seconds
        while not self.over() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, DISCONNECT_CHECK_SECONDS))

    def over(self) -> bool:
        """Whether the wait has to end: the process shuts down, the client has disconnected, or its token has ended."""
        gone = self._client is not None and disconnects.has_disconnected(self._client)
        return self._notifier.stopping() or gone or self.token_has_ended()

    def token_has_ended(self) -> bool:
        """Whether the token has expired or been revoked, as of the last check, at most TOKEN_SECONDS ago."""
        if self._token_is_valid is not None and time.monotonic() >= self._check_token_at:
            self._check_token_at = time.monotonic() + TOKEN_SECONDS if self._token_is_valid() else 0.0
        return self._check_token_at == 0.0


def long_polls() -> LongPolls:
    """The places of the app that handles this request."""
    found: LongPolls = current_app.extensions[EXTENSION]
    return found


def hold(job_id: str, seconds: float | None, respond: Respond) -> Response:
    """Call `respond` until there is nothing to wait for or `seconds` are over; return its last response. Called once,
    with a Retry-After header in the response, if all places are taken."""
    deadline = time.monotonic() + (seconds or 0.0)
    response, predicate = respond()
    if seconds and predicate is not None:
        place = long_polls().place()
        if place is None:
            response.headers["Retry-After"] = str(TooManyStreams.retry_after_seconds)
            return response
        try:
            while predicate is not None and not place.over() and (left := deadline - time.monotonic()) > 0:
                place.wait(job_id, predicate, left)
                if place.token_has_ended():
                    auth.identify()  # raises TokenExpired or TokenRevoked
                response, predicate = respond()
        finally:
            place.leave()
    if "wait" not in request.args and (preferred := preferred_seconds()) is not None:
        response.headers["Preference-Applied"] = f"wait={preferred:g}"
    return response


def preferred_seconds() -> float | None:
    """Seconds of `Prefer: wait=30` (RFC 7240), at most 60; None without one. The first valid `wait` counts."""
    if "Prefer" not in request.headers:
        return None
    for preference in ",".join(request.headers.getlist("Prefer")).split(","):
        if found := PREFERENCE.fullmatch(preference):
            return float(min(int(found[1]), LONGEST_SECONDS))
    return None
