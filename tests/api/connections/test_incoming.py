"""When a request that arrives in pieces can be given to a thread."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from api.access.auth import COOKIE
from api.connections.incoming import CREDENTIALS, MAX_BODY_BYTES, MAX_HEAD_BYTES, IncomingRequest

LINE = 8190
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: h\r\n"


def request_of(*pieces: bytes) -> IncomingRequest:
    request = IncomingRequest(LINE)
    for piece in pieces:
        request.add(piece)
    return request


class Case(NamedTuple):
    received: bytes
    is_ready: bool
    is_body_incoming: bool


CASES = {
    "nothing": Case(b"", False, False),
    "an empty line": Case(b"\r\n", False, False),
    "a request after an empty line": Case(b"\r\n" + GET, True, False),
    "no empty line": Case(GET[:-2], False, False),
    "no body": Case(GET, True, False),
    "a small body": Case(POST + b"Content-Length: 2\r\n\r\n{}", True, False),
    "half a small body": Case(POST + b"Content-Length: 2\r\n\r\n{", False, True),
    "its name in capitals": Case(POST + b"CONTENT-LENGTH:2\r\n\r\n{", False, True),
    "the largest body that is collected": Case(POST + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES, False, True),
    "a larger one": Case(POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), True, True),
    "a length of thousands of digits": Case(POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", True, True),
    "a length that is none": Case(POST + b"Content-Length: -5\r\n\r\n", True, False),
    "a length in another header": Case(POST + b"X-Content-Length: 5\r\n\r\n", True, False),
    "chunks": Case(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", True, True),
    "the last chunk too": Case(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True, False),
    "a body that waits": Case(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n", True, True),
    "a body that did not wait": Case(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n{}", True, False),
    "a bare line feed": Case(b"GET / HTTP/1.1\n", True, False),
    "one in a header": Case(b"GET / HTTP/1.1\r\nHost: h\n", True, False),
    "a line that is too long": Case(b"GET /" + b"a" * LINE, True, False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_thread_gets_what_it_can_parse_without_waiting(case: Case) -> None:
    request = request_of(case.received)
    assert (request.is_ready, request.is_body_incoming) == (case.is_ready, case.is_body_incoming)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pieces_make_no_difference(case: Case) -> None:
    request = request_of(*(case.received[i : i + 1] for i in range(len(case.received))))
    assert (request.is_ready, request.is_body_incoming) == (case.is_ready, case.is_body_incoming)
    assert request.received == case.received


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Authorization: Bearer %d", True),
        (b"authorization: Bearer %d", True),
        (b"Cookie: gradq_token=%d", True),
        (b"cookie: theme=dark; gradq_token=%d; last=1", True),
        (b"Cookie: gradq_theme=%d", False),
        (b"X-Authorization: Bearer %d", False),
        (b"Accept: text/%d", False),
    ],
)
def test_clients_are_told_apart_by_their_credentials(header: bytes, found: bool) -> None:
    one, same, other = (request_of(GET[:-2] + header % number + b"\r\n\r\n") for number in (1, 1, 2))
    assert one.credentials == same.credentials
    assert (one.credentials != b"", one.credentials != other.credentials) == (found, found)


def test_of_cookies_only_the_session_s_counts() -> None:
    one, other = (request_of(GET[:-2] + b"Cookie: gradq_token=a; seen=%d\r\n\r\n" % number) for number in (1, 2))
    assert one.credentials == other.credentials == b"a"
    assert CREDENTIALS[-1] == f" {COOKIE}=".encode()


def test_credentials_in_a_body_are_none() -> None:
    body = b"Authorization: Bearer a\r\n"
    assert request_of(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body).credentials == b""


def test_a_head_has_a_limit_and_a_body_that_is_collected_too() -> None:
    assert not request_of(GET[:-2] + b"X: y\r\n" * 100).is_too_large
    assert request_of(GET[:-2] + b"X: y\r\n" * (MAX_HEAD_BYTES // 6)).is_too_large


@pytest.mark.parametrize("more", [-1, 0, 1, 16 << 10])
@pytest.mark.parametrize("begin", [GET[:-2], POST + b"Content-Length: 9\r\n", POST + b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("after", [b"", b"{", GET], ids=["nothing", "body", "next request"])
def test_that_limit_is_exact(begin: bytes, more: int, after: bytes) -> None:
    """Whether the end of the head comes with its other bytes or alone."""
    head = begin + b"X: " + b"y" * (MAX_HEAD_BYTES + more - len(begin) - len("X: \r\n\r\n")) + b"\r\n\r\n"
    assert len(head) == MAX_HEAD_BYTES + more
    assert request_of(head + after).is_too_large is (more > 0)
    assert request_of(head[:-1], head[-1:] + after).is_too_large is (more > 0)


def test_a_body_does_not_count_as_head() -> None:
    assert not request_of(POST + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES + bytes(MAX_BODY_BYTES)).is_too_large


@pytest.mark.parametrize("received", [POST + b"Content-Length: 9\r\n\r\n{", GET[:-2], b""])
def test_at_the_end_of_a_connection_a_thread_gets_a_complete_head(received: bytes) -> None:
    request = request_of(received)
    request.end()
    assert request.is_ready is (b"\r\n\r\n" in received)


def test_each_byte_of_a_head_is_searched_once() -> None:
    """The cost of n headers that arrive one by one grows with n, not with its square."""

    class Counted(bytearray):
        searched = 0

        def find(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
            Counted.searched += (len(self) if end is None else min(end, len(self))) - start
            return super().find(sub, start, len(self) if end is None else end)

    def cost(headers: int) -> int:
        request, Counted.searched = IncomingRequest(LINE), 0
        request.received = Counted(b"GET / HTTP/1.1\r\n")
        for _ in range(headers):
            request.add(b"Name: value\r\n")
        return Counted.searched

    assert cost(400) < 5 * cost(100)
