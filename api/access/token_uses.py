"""What this process remembers of tokens, in memory: when it last tried to record that one was used, and which ones were
valid a moment ago. Both are bounded: the oldest are forgotten."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from typing import Generic, TypeVar

MOST_TOKENS = 10_000
RECENT_SECONDS = 3600.0

V = TypeVar("V")


class _Bounded(Generic[V]):
    """A dictionary of the `MOST_TOKENS` newest entries."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: str, value: V) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > MOST_TOKENS:
                self._entries.popitem(last=False)

    def get(self, key: str) -> V | None:
        with self._lock:
            return self._entries.get(key)

    def remove(self, key: str) -> None:
        with self._lock:
            self._entries.pop(key, None)


class TokenUses:
    """When this process last tried to record the use of each token, also in vain: a database that takes no writes must
    not delay each request that only reads."""

    def __init__(self, every_seconds: float) -> None:
        self._every = every_seconds
        self._tried: _Bounded[float] = _Bounded()

    def is_due(self, token_id: str) -> bool:
        """Whether to try now; False for the next `every_seconds`."""
        tried, now = self._tried.get(token_id), time.monotonic()
        if tried is not None and now - tried < self._every:
            return False
        self._tried.put(token_id, now)
        return True


class RecentTokens(Generic[V]):
    """Callers whose tokens were valid within the last hour, by the sha256 of the token's text."""

    def __init__(self) -> None:
        self._callers: _Bounded[tuple[float, V]] = _Bounded()

    def remember(self, text: str, caller: V) -> None:
        self._callers.put(_hash(text), (time.monotonic(), caller))

    def forget(self, text: str) -> None:
        self._callers.remove(_hash(text))

    def find(self, text: str) -> V | None:
        """The caller; None if the token was not valid within the last hour."""
        found = self._callers.get(_hash(text))
        if found is None or time.monotonic() - found[0] > RECENT_SECONDS:
            return None
        return found[1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
