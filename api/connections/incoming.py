"""A request while it arrives: the poller collects its head and a small body, so that no thread waits for them."""

from __future__ import annotations

import re

MAX_HEAD_BYTES = MAX_BODY_BYTES = 64 << 10  # of what is collected here; a thread receives larger bodies
EMPTY_LINE = b"\r\n\r\n"
BARE_LF = re.compile(rb"(?<!\r)\n")
FRAMING = re.compile(
    rb"\r\n(?:content-length:[ \t]*(?P<length>\d+)[ \t]*(?=\r)|transfer-encoding:(?P<coding>)|expect:(?P<expect>))",
    re.IGNORECASE,
)
CREDENTIALS = (b"\r\nAuthorization: ", b"\r\nauthorization: ", b" gradq_token=")  # the last: of a session's cookie
WITHOUT_BODY = (b"GET ", b"HEAD ")
LAST_CHUNK = b"0\r\n\r\n"
MAX_DIGITS = 12  # of a Content-Length that is read here


class IncomingRequest:
    """The bytes of one request, until a thread takes them.

    `is_ready`: a thread can parse the head without waiting for the client, because it is complete, or because what has
    been received is malformed.
    """

    def __init__(self, max_line: int) -> None:
        """`max_line`: bytes of the longest request line that is accepted."""
        self.received = bytearray()
        self.is_ready = False
        self._max_line = max_line
        self._head: int | None = None  # length of the head; None while it is incomplete
        self._end: int | None = None  # length of head and body; None while the head is incomplete
        self._is_chunked = False

    @property
    def is_too_large(self) -> bool:
        """Whether the head is larger than MAX_HEAD_BYTES. False for a malformed one, which a thread refuses."""
        if self._head is None:
            return not self.is_ready and len(self.received) > MAX_HEAD_BYTES
        return self._head > MAX_HEAD_BYTES

    @property
    def is_body_incoming(self) -> bool:
        """Whether a part of the body has not been received yet."""
        if self._is_chunked:
            return not self.received.endswith(LAST_CHUNK)
        return self._end is not None and len(self.received) < self._end

    @property
    def credentials(self) -> bytes:
        """The header's or cookie's value by which the client says who it is, unverified; empty if there is none, or it
        is written in another way than libraries and browsers write it."""
        for name in CREDENTIALS:
            if (found := self.received.find(name, 0, self._head or 0)) >= 0:
                start = found + len(name)
                return bytes(self.received[start : self.received.find(b"\r", start)]).partition(b";")[0]
        return b""

    def add(self, data: bytes) -> None:
        start = len(self.received)
        self.received += data
        if self._end is None:
            self._look_for_head(start)
        if self._end is not None and len(self.received) >= self._end:
            self.is_ready = True

    def end(self) -> None:
        """The client sends no more. A thread can take what there is, if the head is complete."""
        self.is_ready = self._end is not None

    def _look_for_head(self, start: int) -> None:
        """Only new bytes are searched, so that a head that arrives byte by byte costs no more than its length."""
        received = self.received
        found = received.find(EMPTY_LINE, max(0, start - len(EMPTY_LINE) + 1))
        if found >= 0:
            self._read_framing(found + len(EMPTY_LINE))
        elif BARE_LF.search(received, start) or (
            len(received) > self._max_line + 2 and received.find(b"\r\n", 0, self._max_line + 2) < 0
        ):
            self.is_ready = True  # malformed: gunicorn's parser refuses it without reading on

    def _read_framing(self, head: int) -> None:
        """How long the body is, as far as that decides who receives it; gunicorn's parser checks the headers."""
        body, self._head = 0, head
        if self.received.startswith(WITHOUT_BODY):
            self._end = head  # if there is a body nevertheless, a thread waits for it as for a larger one
            return
        for header in FRAMING.finditer(self.received, 0, head):
            if (digits := header["length"]) is not None:
                body = int(digits) if len(digits) <= MAX_DIGITS else MAX_BODY_BYTES + 1
            elif header["coding"] is not None:
                self._is_chunked = self.is_ready = True
            else:
                self.is_ready = True  # Expect: the client sends the body once a thread has asked for it
        self.is_ready = self.is_ready or body > MAX_BODY_BYTES
        self._end = head + body
