"""Places: how much of something requests of this process may use at the same time, in total and for one caller."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable

Leave = Callable[[], None]


class Places:
    """A number of places, for threads that wait, computations, or bytes in memory. Up to `waiting` requests wait for
    theirs, half of them of one caller, for at most `seconds`."""

    def __init__(self, number: int, waiting: int = 0, seconds: float = 0.0) -> None:
        self.number, self.waiting, self.seconds = number, waiting, seconds
        self._taken: Counter[Hashable] = Counter()  # by caller
        self._waits: Counter[Hashable] = Counter()
        self._changed = threading.Condition(threading.Lock())

    @property
    def in_use(self) -> int:
        return self._taken.total()

    def enter(self, who: Hashable, share: float = 1.0, weight: int = 1) -> Leave | None:
        """Take `weight` places for the caller `who`, who may have `share` of all, at least one. Returns the function
        that leaves them, to be called once; None if they are not free in time."""
        most = max(1, round(self.number * share))
        with self._changed:
            if not self._fit(who, most, weight) and not self._wait(who, most, weight):
                return None
            self._taken[who] += weight
        return lambda: self._leave(who, weight)

    def _fit(self, who: Hashable, most: int, weight: int) -> bool:
        return self._taken.total() + weight <= self.number and self._taken[who] + weight <= most

    def _wait(self, who: Hashable, most: int, weight: int) -> bool:
        if self._waits.total() >= self.waiting or self._waits[who] >= self.waiting // 2:
            return False
        self._waits[who] += 1
        try:
            return self._changed.wait_for(lambda: self._fit(who, most, weight), self.seconds)
        finally:
            self._waits -= Counter((who,))

    def _leave(self, who: Hashable, weight: int) -> None:
        with self._changed:
            self._taken -= Counter({who: weight})  # drops callers whose count is 0
            self._changed.notify_all()
