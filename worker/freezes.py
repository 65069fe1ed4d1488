"""Detects that a worker's maintenance loop, or the database it waits for, did nothing for a while and then went on.

The database's clock runs meanwhile, so that leases which no worker could renew look expired.
"""

from __future__ import annotations

import time


class FreezeWatch:
    """Measures each step of the loop with the monotonic clock. `seconds`: what no step takes unless it was frozen.

    Single steps, and not whole rounds: a round with much to do is no freeze.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._stepped = time.monotonic()

    def step(self, planned: float = 0.0) -> bool:
        """Whether the loop was frozen since the last call. `planned`: seconds that it was meant to wait."""
        before, self._stepped = self._stepped, time.monotonic()
        return self._stepped - before > planned + self.seconds
