"""The messages between a worker and the `gradq up` that started it, over a socket that the worker inherits.

`gradq up` ends its direction of the socket when the worker may do more than start the trainer server; the worker sends
its pid once it is registered in the database and a SIGTERM drains it.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from enum import Enum, auto

_started_by: list[socket.socket] = []  # one, until the report; empty without a `gradq up`
_reached: set[Step] = set()
_lock = threading.Lock()  # the steps are reached in two threads


class Step(Enum):
    REGISTERED = auto()  # in the database, so that the service counts on it
    HANDLES_SIGNALS = auto()


def wait_for_turn(fd: int) -> None:
    """Return once the other end of the socket `fd` is closed for writing. The report then goes over it."""
    other = socket.socket(fileno=fd)
    with suppress(ConnectionResetError):  # closed, and what an earlier worker has sent was not read
        other.recv(1)
    _started_by.append(other)


def reached(step: Step) -> None:
    """Called whenever this process's worker has taken a step; after the last one, it reports once."""
    with _lock:
        _reached.add(step)
        if _reached == set(Step):
            _report()


def _report() -> None:
    while _started_by:
        with _started_by.pop() as other, suppress(OSError):  # it no longer waits
            other.sendall(f"{os.getpid()}\n".encode())
