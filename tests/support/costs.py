"""What a call costs, for limits that must not grow faster than the input."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object]) -> float:
    """Seconds of CPU time of this process: unlike those of a clock, a busy machine hardly changes them."""
    before = time.process_time()
    call()
    return time.process_time() - before
