"""Connections to Redis with a deadline for each response.

redis-py's `socket_timeout` limits each read from the socket: a server that sends a byte now and then, and never the end
of a line, blocks the caller without a timeout.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import kombu
from kombu.transport.redis import Transport
from redis import ConnectionPool


class _Socket:
    """A socket whose reads end when its timeout has passed since the last command was sent, however many reads a
    response takes. All else is the socket's own."""

    def __init__(self, real: Any) -> None:
        self._real, self._timeout = real, real.gettimeout()
        self._sent = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds
        self._real.settimeout(seconds)

    def sendall(self, data: Any, *flags: Any) -> None:
        self._sent = time.monotonic()
        self._real.settimeout(self._timeout)  # of all of it, in Python
        self._real.sendall(data, *flags)

    def recv(self, *arguments: Any) -> Any:
        return self._in_time(self._real.recv, *arguments)

    def recv_into(self, *arguments: Any) -> Any:
        return self._in_time(self._real.recv_into, *arguments)

    def _in_time(self, receive: Any, *arguments: Any) -> Any:
        if self._timeout:  # neither None nor 0, which asks whether anything is there
            left = self._sent + self._timeout - time.monotonic()
            if left <= 0:
                raise TimeoutError("no whole response in time")
            self._real.settimeout(left)
        return receive(*arguments)


@functools.cache
def with_deadline(connection: type[Any]) -> type[Any]:
    """A class of redis-py's connections, over TCP, TLS or a Unix socket, with a deadline for each response."""

    class Connection(connection):
        def _connect(self) -> Any:
            found = super()._connect()
            found.settimeout(self.socket_timeout)
            return _Socket(found)

    return Connection


def pool(url: str, **options: Any) -> ConnectionPool:
    """A pool of such connections. Options: those of redis-py, with `socket_timeout`, the seconds for a response."""
    made = ConnectionPool.from_url(url, **options)
    made.connection_class = with_deadline(made.connection_class)
    return made


class BrokerConnection(kombu.Connection):
    """kombu's connection to a broker, which has such connections to a Redis."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        found = self.get_transport_cls()
        if issubclass(found, Transport) and not getattr(found, "has_deadline", False):  # as that of a clone
            self.transport_cls = _transport_with_deadline(found)  # which the pool's connections are given, too


@functools.cache
def _transport_with_deadline(transport: type[Any]) -> type[Any]:
    class Channel(transport.Channel):  # type: ignore[name-defined]
        def _connparams(self, *arguments: Any, **options: Any) -> Any:
            found = super()._connparams(*arguments, **options)
            return {**found, "connection_class": with_deadline(found["connection_class"])}

    return type("Transport", (transport,), {"Channel": Channel, "has_deadline": True})
