"""Signals of processes that tests start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def default_hangup() -> Iterator[None]:
    """Processes that are started here get SIGHUP, also if the tests themselves run under nohup, which they inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
