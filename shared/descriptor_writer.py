"""Writes to a file descriptor, whatever it is, that wait a limited time for its reader.

`poll` is not enough: a terminal is ready with room for one byte, and a write of a line returns only once all of
it fits; a pipe that is ready may be filled by another process before the write. So pipes and terminals are opened once
more for writes that never block, sockets are sent to without waiting, and a terminal that cannot be opened again is
written to in a thread.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

PIECE = select.PIPE_BUF  # bytes of one write; a pipe takes as much whole, without another process's bytes in between
PAUSE_SECONDS = 0.005  # before another write to a descriptor that `poll` calls ready and that accepted no byte
THREAD_SECONDS = 0.1  # the least that a write in a thread is waited for

NOT_READ = "its reader does not read"


class DescriptorWriter:
    """Writes to `fd`, which stays its owner's. Its own descriptors are closed with it, and not inherited."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._thread: threading.Thread | None = None  # of the last write in a thread
        self._write, self._piece = self._way()

    def write(self, data: memoryview, deadline: float) -> int:
        """Write some of the data. Returns the number of bytes. Raises OSError; also if nothing has been taken by
        `deadline`, on the monotonic clock."""
        pause = 0.0
        while True:
            try:
                return self._write(self, data[: self._piece], deadline)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise OSError(NOT_READ) from None
            self._wait(deadline)
            time.sleep(pause)
            pause = PAUSE_SECONDS

    def _way(self) -> tuple[Callable[[DescriptorWriter, memoryview, float], int], int | None]:
        """The method that writes to this descriptor, and the most bytes of one call; None: all."""
        try:
            mode, access = os.fstat(self.fd).st_mode, fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE
        except OSError:
            return DescriptorWriter._at_once, None  # closed, which each write reports
        if stat.S_ISREG(mode) or access == os.O_RDONLY:
            return DescriptorWriter._at_once, None
        if stat.S_ISSOCK(mode):
            with suppress(OSError):
                self._socket = socket.socket(fileno=os.dup(self.fd))
                weakref.finalize(self, self._socket.close).atexit = False
                return DescriptorWriter._to_socket, PIECE
        elif (own := _opened_again(self.fd)) is not None:
            self._own = own
            weakref.finalize(self, os.close, own).atexit = False
            return DescriptorWriter._to_own, PIECE
        return (DescriptorWriter._when_ready, PIECE) if stat.S_ISFIFO(mode) else (DescriptorWriter._in_thread, None)

    def _at_once(self, data: memoryview, _deadline: float) -> int:
        return os.write(self.fd, data)

    def _to_own(self, data: memoryview, _deadline: float) -> int:
        return os.write(self._own, data)

    def _to_socket(self, data: memoryview, _deadline: float) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def _when_ready(self, data: memoryview, deadline: float) -> int:
        self._wait(deadline)
        return os.write(self.fd, data)

    def _in_thread(self, data: memoryview, deadline: float) -> int:
        """The thread of a write that blocks stays, and what is written meanwhile is dropped. Raises RuntimeError if no
        thread can be started."""
        results: list[int | OSError] = []

        def write() -> None:
            try:
                results.append(os.write(self.fd, data))
            except OSError as error:
                results.append(error)

        if self._thread is not None and self._thread.is_alive():
            self._join(self._thread, deadline)
        thread = threading.Thread(target=write, name="log-writer", daemon=True)
        thread.start()
        self._thread = thread
        self._join(thread, max(deadline, time.monotonic() + THREAD_SECONDS))
        (result,) = results
        if isinstance(result, OSError):
            raise result
        return result

    def _join(self, thread: threading.Thread, deadline: float) -> None:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            raise OSError(NOT_READ)

    def _wait(self, deadline: float) -> None:
        poller = select.poll()
        poller.register(self.fd, select.POLLOUT)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise OSError(NOT_READ)


def _opened_again(fd: int) -> int | None:
    """A descriptor of the same pipe or device whose writes never block; None if the system allows none, as for another
    user's terminal. O_NONBLOCK on `fd` itself would change it for all that have inherited it, such as a shell."""
    for path in _paths(fd):
        with suppress(OSError):
            own = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            if fcntl.fcntl(own, fcntl.F_GETFL) & os.O_NONBLOCK:
                return own
            os.close(own)  # elsewhere than on Linux it may be a duplicate, with the flags of `fd`
    return None


def _paths(fd: int) -> Iterator[str]:
    yield f"/proc/self/fd/{fd}"
    with suppress(OSError):
        yield os.ttyname(fd)
    with suppress(OSError):
        os.tcgetpgrp(fd)  # fails unless it is the terminal that controls this process, which it may open by this name
        yield "/dev/tty"
