"""What a call costs, for limits that must not grow faster than the input."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object]) -> float:
    """Seconds of CPU time of this process: unlike those of a clock, a busy machine hardly changes them."""
    before = time.process_time()
    call()
    return time.process_time() - before


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that Python and numpy hold during the call, beyond what they held before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
