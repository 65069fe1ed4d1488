"""Turns: in which order requests get threads, and how many are served at once.

If a hundred requests arrive together and each gets a thread, all of them share the interpreter, and each takes as long
as all: who asks for little waits for who asks for much, and the poller for both. So only some are served at once, and
each client has its turn, and its share.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

AT_ONCE = 8  # requests that are served at once
SHARE = 0.5  # of them, at most, for one client while others wait; without others, all but one
# Most requests end within a few milliseconds. One that does not after so long waits for something, such as a database,
# and is counted no more: any number of them would otherwise stop all others.
LONGEST_SECONDS = 0.5

Request = TypeVar("Request", bound=Hashable)


class Turns(Generic[Request]):
    """Requests that wait for their turns, by client. Used by one thread; `now` is monotonic time in seconds."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, deque[Request]] = OrderedDict()  # the client whose turn is next is first
        self._served: OrderedDict[Request, tuple[Hashable, float]] = OrderedDict()  # since when; the oldest first
        self._shares: dict[Hashable, int] = {}  # requests that are served, by client

    def add(self, client: Hashable, request: Request) -> None:
        self._waiting.setdefault(client, deque()).append(request)

    def take(self, now: float) -> Request | None:
        """The request whose turn it is, served from now on; None if none waits, or none may be served yet."""
        if not self._waiting:
            return None
        while self._served and now - self._oldest()[1] >= LONGEST_SECONDS:
            self.end(self._oldest()[0])
        if len(self._served) >= AT_ONCE:
            return None
        most = AT_ONCE - 1 if len(self._waiting) == 1 else SHARE * AT_ONCE
        for client, requests in self._waiting.items():
            if self._shares.get(client, 0) < most:
                return self._serve(client, requests, now)
        return None

    def end(self, request: Request) -> None:
        """Count the request no more: it is answered, or has begun to wait for something."""
        if (served := self._served.pop(request, None)) is not None:
            client, _ = served
            self._shares[client] -= 1
            if not self._shares[client]:
                del self._shares[client]

    def seconds_left(self, now: float) -> float:
        """The time after which `take` has to be called though no request ends; infinite if none waits."""
        if not self._waiting or not self._served:
            return math.inf
        return max(0.0, self._oldest()[1] + LONGEST_SECONDS - now)

    def _oldest(self) -> tuple[Request, float]:
        """The request that has been served for longest, and since when."""
        request, (_, since) = next(iter(self._served.items()))
        return request, since

    def _serve(self, client: Hashable, requests: deque[Request], now: float) -> Request:
        request = requests.popleft()
        self._waiting.move_to_end(client)
        if not requests:
            del self._waiting[client]
        self._served[request] = client, now
        self._shares[client] = self._shares.get(client, 0) + 1
        return request
