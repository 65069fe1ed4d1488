"""Places for calls that need much memory or computing time: how many may be served at once, in all and per owner.

Each process counts for itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from shared.errors import TooManyPredictions


class Places:
    """`total` places, of which one owner has at most `share`. Up to `waiting` calls wait for theirs, half of them of
    one owner, for at most `seconds`; callers without a token have no owner and share all."""

    def __init__(self, total: int, share: int, waiting: int = 0, seconds: float = 0.0) -> None:
        self.total, self.share, self.waiting, self.seconds = total, share, waiting, seconds
        self._changed = threading.Condition()
        self._taken: Counter[str | None] = Counter()
        self._waits: Counter[str | None] = Counter()

    @contextlib.contextmanager
    def taken(self, owner: str | None, weight: int = 1) -> Iterator[None]:
        """Context manager: `weight` places. Raises TooManyPredictions if they are not free in time."""
        with self._changed:
            if not self._fits(owner, weight) and not self._wait(owner, weight):
                detail = "this process serves as many predictions as it can at the same time, or as many of one owner"
                raise TooManyPredictions(f"{detail}; send this request again later, or fewer at a time")
            self._taken[owner] += weight
        try:
            yield
        finally:
            with self._changed:
                self._taken[owner] -= weight
                self._taken += Counter()  # without owners that have none
                self._changed.notify_all()

    @property
    def in_use(self) -> int:
        return self._taken.total()

    def _fits(self, owner: str | None, weight: int) -> bool:
        mine = self.total if owner is None else self.share
        return self._taken.total() + weight <= self.total and self._taken[owner] + weight <= mine

    def _wait(self, owner: str | None, weight: int) -> bool:
        mine = self.waiting if owner is None else self.waiting // 2
        if self._waits.total() >= self.waiting or self._waits[owner] >= mine:
            return False
        self._waits[owner] += 1
        try:
            return self._changed.wait_for(lambda: self._fits(owner, weight), self.seconds)
        finally:
            self._waits[owner] -= 1
            self._waits += Counter()
