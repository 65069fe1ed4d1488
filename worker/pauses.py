"""Pauses that grow while something fails again and again."""

from __future__ import annotations

import time

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
CALM_SECONDS = 60.0  # without a failure, after which the pauses start anew


class GrowingPauses:
    """Not for use by several threads at once."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_SECONDS
        self._last_failure = float("-inf")

    def failed(self) -> None:
        """Note a failure."""
        now = time.monotonic()
        if now - self._last_failure > CALM_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self._last_failure = now

    def next(self) -> float:
        """Seconds to wait before the next try; each is twice the one before, up to LONGEST_PAUSE_SECONDS."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return pause
