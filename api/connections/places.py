"""Places: how many threads of this process may wait for something at the same time, in total and for one caller."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable

Leave = Callable[[], None]


class Places:
    """A number of places; each is taken by one request, and occupies a thread while it is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._taken: Counter[Hashable] = Counter()  # by caller
        self._lock = threading.Lock()

    def enter(self, who: Hashable, share: float = 1.0) -> Leave | None:
        """Take a place for the caller `who`, who may have `share` of all, at least one. Returns the function that
        leaves it, to be called once; None if all places, or all of this caller's share, are taken."""
        with self._lock:
            if self._taken.total() >= self.number or self._taken[who] >= max(1, round(self.number * share)):
                return None
            self._taken[who] += 1
        return lambda: self._leave(who)

    def _leave(self, who: Hashable) -> None:
        with self._lock:
            self._taken -= Counter((who,))  # drops callers whose count is 0
