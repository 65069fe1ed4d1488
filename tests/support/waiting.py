"""Waiting for something to come true, with a deadline and a name for what did not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], seconds: float, what: str, every: float = 0.05) -> T:
    """What `condition` returns as soon as that is true. An exception in it is the test's own; it is not swallowed."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(every)
