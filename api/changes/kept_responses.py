"""How many bytes of responses each owner lets this process store for Idempotency-Keys in a day."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from shared.errors import TooManyKeptResponses

MOST_BYTES = 1 << 30  # per owner, day and API process: a quarter of a million jobs
LEAST_BYTES = 64 << 20  # some 16 000 jobs: the client sends a key with each change
SHARE = 8  # of what an owner may store, in each process, if that is less
HOUR, HOURS = 3600.0, 24


class KeptResponses:
    """Counts in hours. `owner_bytes`: what an owner may store in all; None: no limit. `clock`: seconds, monotonic."""

    def __init__(self, owner_bytes: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = MOST_BYTES if owner_bytes is None else max(LEAST_BYTES, min(MOST_BYTES, owner_bytes // SHARE))
        self._clock = clock
        self._by_hour: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._lock = threading.Lock()

    def add(self, owner: str, size_bytes: int) -> None:
        with self._lock:
            self._by_hour[self._hour()][owner] += size_bytes

    def check(self, owner: str) -> None:
        """Raises TooManyKeptResponses if this owner's are as many as may be kept."""
        with self._lock:
            now = self._hour()
            for hour in [hour for hour in self._by_hour if hour <= now - HOURS]:
                del self._by_hour[hour]
            used = sum(counts[owner] for counts in self._by_hour.values())
        if used >= self.limit:
            detail = f"responses of {used} bytes are stored for your Idempotency-Keys, and are for a day"
            raise TooManyKeptResponses(f"{detail}; nothing was changed. Send the request later, or without a key")

    def _hour(self) -> int:
        return int(self._clock() // HOUR)
