"""Detects clients that have disconnected. A stream would notice it at its second write after that, a long poll
never."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable

from flask import request

UNACKNOWLEDGED_MS = 20_000  # TCP_USER_TIMEOUT: for how long data may remain unacknowledged


def of_this_request() -> socket.socket | None:
    """The socket of this request's connection; None if the server does not provide it."""
    found: socket.socket | None = request.environ.get("gunicorn.socket")
    return found


def set_user_timeout(client: socket.socket) -> None:
    """Let the kernel close a connection whose client acknowledges no data: its host is down, or it does not read."""
    if client.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


def gone_among(clients: Iterable[socket.socket]) -> set[socket.socket]:
    """The sockets whose clients have disconnected, found with a single poll(2)."""
    gone, by_number = set(), {}
    poll = select.poll()
    for client in clients:
        if (number := client.fileno()) < 0:
            gone.add(client)  # its request's thread has responded meanwhile and closed the connection
        else:
            by_number[number] = client
            poll.register(number, select.POLLIN)
    return gone | {by_number[number] for number, _ in poll.poll(0) if has_disconnected(by_number[number])}


def has_disconnected(client: socket.socket) -> bool:
    """Whether the client has closed the connection. Readable data may also be its next request."""
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
