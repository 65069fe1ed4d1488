"""Requests that are held open until their job moves on: how many there may be, how long one may wait, when it ends."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated

from flask import Response, current_app, request
from pydantic import Field

from api.access import auth
from api.http.requests import Query
from api.waiting import disconnects
from api.waiting.change_notifier import LISTEN_SECONDS, Concerns, Watcher
from shared.config import Settings
from shared.db.database import Database
from shared.errors import TooManyStreams

EXTENSION = "gradq.held"
LONGEST_SECONDS = 60
SHARE = 0.75  # of the places, for one owner: whatever he does, others can wait too
TOKEN_SECONDS = 3.0  # between two looks whether the token of a held request is still good
PREFERENCE = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', re.IGNORECASE)

Ask = Callable[[], tuple[Response, Concerns | None]]  # what is true now, and which look would change that; None: none


class Waiting(Query):
    """The parameters of a call that may be held."""

    wait: Annotated[float, Field(ge=0, le=LONGEST_SECONDS)] | None = Field(
        None, description="hold the answer back for up to so many seconds; the header `Prefer: wait=30` does the same"
    )

    @property
    def seconds(self) -> float | None:
        """How long the client wants to wait; None: it has not said so."""
        return preferred_seconds() if self.wait is None else self.wait


class LongPolls:
    """The places of one process. Who waits has a place and a thread; others find a thread because places are few."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.watcher = Watcher(database, settings.lease_seconds)
        self._database = database
        self._places = settings.held_requests
        self._of_one_owner = max(1, round(self._places * SHARE))
        self._taken: Counter[str | None] = Counter()  # by owner
        self._lock = threading.Lock()

    def place(self) -> Place | None:
        """A place for this request, which has to leave it again; None: all are taken, or all of this owner's share."""
        who = auth.principal()
        with self._lock:
            share = self._places if who.owner is None else self._of_one_owner
            if self._taken.total() >= self._places or self._taken[who.owner] >= share:
                return None
            self._taken[who.owner] += 1
        good = (lambda: auth.is_still_good(who, self._database)) if who.can_end else None
        return Place(self.watcher, lambda: self._leave(who.owner), disconnects.of_this_request(), good)

    def _leave(self, owner: str | None) -> None:
        with self._lock:
            self._taken -= Counter((owner,))  # which forgets who has none left


class Place:
    """One request's right to wait. It ends with the token that it came with: `good`, where it came with one."""

    def __init__(
        self,
        watcher: Watcher,
        leave: Callable[[], None],
        client: socket.socket | None,
        good: Callable[[], bool] | None,
    ) -> None:
        self.leave = leave
        self._watcher, self._client, self._good = watcher, client, good
        self._ask_at = time.monotonic() + TOKEN_SECONDS
        if client is not None:
            disconnects.give_up_on_silence(client)

    def wait(self, job_id: str, concerns: Concerns, seconds: float) -> None:
        """As `Watcher.wait`; with a token for a short time at once, to see whether it is still good."""
        deadline = time.monotonic() + seconds
        longest = TOKEN_SECONDS if self._good is not None else float("inf")
        while not self.over() and (left := deadline - time.monotonic()) > 0:
            if self._watcher.wait(job_id, concerns, min(left, longest), self._client):
                return

    def rest(self, seconds: float) -> None:
        """Sleep, for somebody who looks for himself; not much longer than there is anything to wait for."""
        end = time.monotonic() + seconds
        while not self.over() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LISTEN_SECONDS))

    def over(self) -> bool:
        """Nothing is to be waited for any more: this process ends, the client has hung up, or its token has ended."""
        gone = self._client is not None and disconnects.has_hung_up(self._client)
        return self._watcher.stopping() or gone or self.token_has_ended()

    def token_has_ended(self) -> bool:
        """Asked of the database now and then; what it said last holds in between."""
        if self._good is not None and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + TOKEN_SECONDS if self._good() else 0.0
        return self._ask_at == 0.0


def long_polls() -> LongPolls:
    """The places of the app that answers this request."""
    found: LongPolls = current_app.extensions[EXTENSION]
    return found


def hold(job_id: str, seconds: float | None, ask: Ask) -> Response:
    """Ask until there is nothing to wait for or time is over. Where all places are taken, ask once."""
    deadline = time.monotonic() + (seconds or 0.0)
    response, concerns = ask()
    if seconds and concerns is not None:
        place = long_polls().place()
        if place is None:
            response.headers["Retry-After"] = str(TooManyStreams.retry_after_seconds)
            return response
        try:
            while concerns is not None and not place.over() and (left := deadline - time.monotonic()) > 0:
                place.wait(job_id, concerns, left)
                if place.token_has_ended():
                    auth.identify()  # says what is wrong with it
                response, concerns = ask()
        finally:
            place.leave()
    if "wait" not in request.args and (preferred := preferred_seconds()) is not None:
        response.headers["Preference-Applied"] = f"wait={preferred:g}"
    return response


def preferred_seconds() -> float | None:
    """Of `Prefer: wait=30` (RFC 7240): the first one counts, what cannot be read is passed over, more than 60 is 60."""
    if "Prefer" not in request.headers:
        return None
    for preference in ",".join(request.headers.getlist("Prefer")).split(","):
        if found := PREFERENCE.fullmatch(preference):
            return float(min(int(found[1]), LONGEST_SECONDS))
    return None
