"""The other end of a request's connection: whether it is still there. A stream would learn it from its next write but
one, a long-poll never."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable

from flask import request

GIVE_UP_MS = 20_000  # for a client that takes nothing of what is sent to it, and does not hang up either


def of_this_request() -> socket.socket | None:
    """The socket that the server answers on; None where it does not say."""
    found: socket.socket | None = request.environ.get("gunicorn.socket")
    return found


def give_up_on_silence(client: socket.socket) -> None:
    """Have the kernel end a connection whose other end acknowledges nothing: its host is gone, or it does not read."""
    if client.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVE_UP_MS)


def gone_among(clients: Iterable[socket.socket]) -> set[socket.socket]:
    """Those that have hung up, for any number of them in one call of the kernel."""
    gone, by_number = set(), {}
    poll = select.poll()
    for client in clients:
        if (number := client.fileno()) < 0:
            gone.add(client)  # its own thread was quicker: it has answered, and closed the connection
        else:
            by_number[number] = client
            poll.register(number, select.POLLIN)
    return gone | {by_number[number] for number, _ in poll.poll(0) if has_hung_up(by_number[number])}


def has_hung_up(client: socket.socket) -> bool:
    """What can be read may also be the client's next request."""
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
