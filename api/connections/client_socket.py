"""The socket of one client, which a thread waits for only with a place, and only while the client keeps a minimum rate.

gunicorn's threads call `recv`, `sendall` and `sendfile` as on a blocking socket. What the kernel's buffers can take or
have takes no time. Where a call would wait for the client, the thread first takes one of the process's places for that;
so clients that send or read slowly, or not at all, occupy at most as many threads as there are places.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

import structlog

from api.connections.places import Leave

# Of each PATIENCE_SECONDS that a thread waits for the client, in which at least MIN_BYTES must be sent or received:
# 1 KiB/s. A receiver announces room in its buffer in steps of up to 64 KiB, so that a reader that takes 4 KiB/s
# evenly looks like one that takes 64 KiB every 16 seconds; it is served too.
PATIENCE_SECONDS = 30.0
MIN_BYTES = 30 << 10
UNACKNOWLEDGED_MS = 30_000  # TCP_USER_TIMEOUT: also for what is still in the kernel's buffer after the last write
UNSENT_BYTES = 256 << 10  # TCP_NOTSENT_LOWAT: of one response, in the kernel's buffer, which can grow to 4 MiB

OPTIONS = {  # as far as the system has them
    number: value
    for name, value in (("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS), ("TCP_NOTSENT_LOWAT", UNSENT_BYTES))
    if (number := getattr(socket, name, None)) is not None
}

log = structlog.get_logger()


class ClientTooSlow(ConnectionResetError):
    """Ends the request: the client is slower than the minimum rate, or has to be waited for and no place is free."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ECONNRESET, reason)  # an errno that gunicorn does not log with a traceback


class ClientSocket(socket.socket):
    """An accepted connection, used by one thread at a time. It is non-blocking for the kernel at all times; the calls
    of `socket.socket` that change this have no effect."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        super().setblocking(False)
        if self.family in (socket.AF_INET, socket.AF_INET6):
            for name, value in OPTIONS.items():
                with suppress(OSError):  # macOS refuses them on a connection that its client has reset
                    self.setsockopt(socket.IPPROTO_TCP, name, value)
        self.is_body_incoming = False  # whether a part of the request's body was not received when its thread started
        self.take_place: Callable[[], Leave | None] | None = None  # set per request; None: it must not wait
        # whether it is left after each write: a stream, which lasts for hours, waits for its client now and then only
        self.leaves_after_write = False
        self.on_waiting: Callable[[], object] | None = None  # set per request, for `begin_to_wait`
        self.owner: str | None = None  # of the request, once its token has been checked
        self._leave: Leave | None = None
        self._bytes, self._waited = 0, 0.0  # since the first wait after the last check

    def setblocking(self, flag: bool) -> None:
        pass

    def settimeout(self, value: float | None) -> None:
        pass

    # --- one request --------------------------------------------------------------------------------------------------

    def enter(self) -> bool:
        """Take a place for this request, unless it has one. Returns whether it has one now."""
        if self._leave is None and self.take_place is not None:
            self._leave = self.take_place()
            if self._leave is not None:
                self.begin_to_wait()
        return self._leave is not None

    def begin_to_wait(self) -> None:
        """Called for a request that from now on may wait for something other than the interpreter, in one of the places
        for that: its turn ends. Without effect after the first time."""
        on_waiting, self.on_waiting = self.on_waiting, None
        if on_waiting is not None:
            on_waiting()

    def end_request(self) -> None:
        """Leave the request's place. Until the next request sets `take_place`, no call waits for the client."""
        self._leave_place()
        self.take_place = self.on_waiting = None
        self.leaves_after_write = False
        self._bytes, self._waited = 0, 0.0

    def _leave_place(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    # --- as on a blocking socket --------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Raises ClientTooSlow; with MSG_DONTWAIT in `flags`, BlockingIOError."""
        while True:
            try:
                received = super().recv(bufsize, flags)
            except BlockingIOError:
                if flags & socket.MSG_DONTWAIT:
                    raise
                self._wait(select.POLLIN)
            else:
                self._bytes += len(received)
                return received

    def sendall(  # type: ignore[override]  # any buffer there; gunicorn sends bytes
        self, data: bytes | memoryview, flags: int = 0, /
    ) -> None:
        """Raises ClientTooSlow."""
        left = data
        while True:
            try:
                sent = self.send(left, flags)
            except BlockingIOError:
                self._wait(select.POLLOUT)
                continue
            self._bytes += sent
            if sent == len(left):
                if self.leaves_after_write:
                    self._leave_place()
                return
            left = memoryview(left)[sent:]

    def sendfile(self, file: IO[bytes] | Any, offset: int = 0, count: int | None = None) -> int:
        """Send `count` bytes of the file, from `offset` to its end without a count. Returns the number of bytes sent,
        which is smaller if the file is. Raises ClientTooSlow."""
        source, place = file.fileno(), offset
        end = os.fstat(source).st_size if count is None else offset + count
        while place < end:
            try:
                sent = os.sendfile(self.fileno(), source, place, end - place)
            except BlockingIOError:
                self._wait(select.POLLOUT)
                continue
            if sent == 0:
                break
            self._bytes += sent
            place += sent
        return place - offset

    def _wait(self, event: int) -> None:
        """Wait for the client to send something or to make room, at most for what is left of PATIENCE_SECONDS."""
        if not self.enter():
            self._give_up("no place is free to wait for it")
        if self._waited == 0.0:
            self._bytes = 0  # what the buffers took or had at once says nothing about the client
        poll = select.poll()
        poll.register(self.fileno(), event)
        began = time.monotonic()
        poll.poll(1000 * max(0.0, PATIENCE_SECONDS - self._waited))
        self._waited += time.monotonic() - began
        if self._waited >= PATIENCE_SECONDS:
            if self._bytes < MIN_BYTES:
                self._give_up(f"{self._bytes} bytes in {self._waited:.0f} s")
            self._waited = 0.0

    def _give_up(self, reason: str) -> None:
        if self.take_place is not None:  # else its request has been answered, or was refused
            log.warning("connection of a slow client closed", reason=reason)
        raise ClientTooSlow(reason)
