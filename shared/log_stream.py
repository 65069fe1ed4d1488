"""Standard output and error of the service's processes: a write never raises and never blocks for long.

A log is on a disk that may be full, in a pipe whose reader may be gone or asleep, or nowhere. What cannot be written is
dropped and counted, and the count is written once the stream takes lines again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from shared.descriptor_writer import DescriptorWriter

HIDDEN = "***"
SHORTEST_SECRET = 4  # characters; shorter ones are in ordinary words
READER_SECONDS = 0.5  # how long a line waits for a reader that is behind; lines after a dropped one do not wait
LONGEST_UNFINISHED = 1 << 16  # characters of a line without its end, before it is written as it is


class LogStream(io.TextIOBase):
    """A text stream on a file descriptor. Each line is written at once, and whole if the system allows it."""

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self._fd, self._encoding = fd, encoding
        self._lock = threading.RLock()  # a signal handler may log while the interrupted code does
        self._unfinished = ""
        self._torn = False  # the stream ends within a line
        self._untold = 0  # lines dropped since the last one that was written
        self._reason = ""
        self.secrets: tuple[str, ...] = ()  # longest first
        self._uncounted = 0  # lines dropped since the last call of `take_dropped`
        self._writer = DescriptorWriter(fd)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return self._encoding

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Write the complete lines; the rest is kept until its line ends. Returns the length of the text."""
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
            if lines:
                self._put("\n".join(lines) + "\n", len(lines))
            if len(self._unfinished) > LONGEST_UNFINISHED:
                self.flush()
        return len(text)

    def flush(self) -> None:
        """Write an unfinished line as well, such as a prompt."""
        with self._lock:
            rest, self._unfinished = self._unfinished, ""
            if rest:
                self._put(rest, 1)

    def drop(self, reason: str, lines: int = 1) -> None:
        """Count lines that were not written."""
        with self._lock:
            self._uncounted += lines
            self._untold += lines
            self._reason = reason

    def take_dropped(self) -> int:
        """Number of lines dropped since the last call."""
        with self._lock:
            taken, self._uncounted = self._uncounted, 0
        return taken

    def _put(self, text: str, lines: int) -> None:
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        try:
            if self._untold:
                self._send(self._told())
                self._untold = 0
            self._send(text)
        except Exception as error:  # whatever it is, the caller has more important things to do
            self.drop(getattr(error, "strerror", None) or str(error) or type(error).__name__, lines)

    def _told(self) -> str:
        """The line that says how many were dropped."""
        words = f"{self._untold} lines of the log were dropped: {self._reason}"
        if self.isatty():
            return f"{words}\n"
        entry = {"lines": self._untold, "reason": self._reason, "event": "lines of the log were dropped"}
        return json.dumps({**entry, "level": "warning", "timestamp": datetime.now(UTC).isoformat()}) + "\n"

    def _send(self, text: str) -> None:
        """Raises OSError, and RuntimeError if a thread is needed and cannot be started."""
        data = memoryview((("\n" if self._torn else "") + text).encode(self._encoding, "backslashreplace"))
        begun, now = False, time.monotonic()
        try:
            while data:
                # a reader that has taken the beginning is waited for, or it would get many beginnings
                deadline = now if self._untold and not begun else now + READER_SECONDS
                data = data[self._writer.write(data, deadline) :]
                begun = True
            self._torn = False
        except Exception:
            self._torn = self._torn or begun
            raise


def hold_streams() -> None:
    """Make standard output and error of this process LogStreams, and open those that are closed on the null device: a
    file that got one of their numbers would have the log written into it. Streams that a program has replaced stay."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        current, guard = getattr(sys, name), None
        if hasattr(current, "unguarded"):  # the command line's, which escapes what it writes: it stays on top
            current, guard = current.unguarded, current
        if isinstance(current, LogStream) or current is not getattr(sys, f"__{name}__"):
            continue
        if current is not None:
            with contextlib.suppress(OSError, ValueError):
                current.flush()
        stream = LogStream(fd, getattr(current, "encoding", None) or "utf-8")
        if guard is None:
            setattr(sys, name, stream)
        else:
            guard.unguarded = stream
        setattr(sys, f"__{name}__", stream)  # Celery writes there


def hide_in_streams(secrets: Iterable[str]) -> None:
    """Replace these texts in all that the streams of this process write from now on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LogStream):
            stream.secrets = tuple(sorted(filter(_is_long, secrets), key=len, reverse=True))


def _is_long(secret: str) -> bool:
    return len(secret) >= SHORTEST_SECRET


def newly_dropped() -> int:
    """Number of lines that the streams of this process could not take since the last call."""
    return sum(stream.take_dropped() for stream in (sys.stdout, sys.stderr) if isinstance(stream, LogStream))
