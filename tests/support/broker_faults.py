"""Faults of a broker that responds: real ones of a Redis server, and a server that responds the same to everything."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from redis import Redis

from shared.broker import BINDINGS, QUEUE


@dataclass(frozen=True)
class BrokerFault:
    """`word`: the first word of Redis's error. `begin` and `end` cause and cure it."""

    word: str
    begin: Callable[[Redis], object]
    end: Callable[[Redis], object]


def _take(key: str) -> Callable[[Redis], object]:
    """Store a text under the key, as another program on the same Redis may do."""

    def take(redis: Redis) -> None:
        redis.delete(key)
        redis.set(key, "another program's")

    return take


def _require_password(redis: Redis) -> None:
    redis.config_set("requirepass", "secret")
    redis.execute_command("AUTH", "secret")
    _disconnect(redis)


def _disconnect(redis: Redis) -> None:
    """Close the connections of all other clients."""
    redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _take_bindings(redis: Redis) -> None:
    _take(BINDINGS)(redis)
    _disconnect(redis)


def _acl(*rules: str) -> Callable[[Redis], object]:
    return lambda redis: redis.execute_command("ACL", "SETUSER", "default", *rules)


# all of these are seen by a client that sends messages; the last two not by one that receives them
FAULTS = {
    "read-only replica": BrokerFault(
        "READONLY",
        lambda redis: redis.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda redis: redis.execute_command("REPLICAOF", "NO", "ONE"),
    ),
    "queue of another type": BrokerFault("WRONGTYPE", _take(QUEUE), lambda redis: redis.delete(QUEUE)),
    "bindings of another type": BrokerFault("WRONGTYPE", _take_bindings, lambda redis: redis.delete(BINDINGS)),
    "command not permitted": BrokerFault("NOPERM", _acl("-@list"), _acl("+@all")),
    "password required": BrokerFault("NOAUTH", _require_password, lambda redis: redis.config_set("requirepass", "")),
    "too few replicas": BrokerFault(
        "NOREPLICAS",
        lambda redis: redis.config_set("min-replicas-to-write", 3),
        lambda redis: redis.config_set("min-replicas-to-write", 0),
    ),
    "memory full": BrokerFault(
        "OOM", lambda redis: redis.config_set("maxmemory", 1), lambda redis: redis.config_set("maxmemory", 0)
    ),
}

RESPONSES = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "MISCONF": b"-MISCONF Redis is configured to save RDB snapshots\r\n",
    "BUSY": b"-BUSY Redis is busy running a script\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN The cluster is down\r\n",
    "MOVED": b"-MOVED 1 127.0.0.1:1\r\n",
    "WHATEVER": b"-WHATEVER \x1b[31m\xc2\x9b\r\n",
    "nonsense": b"\x00\xff\xfe\r\n",
    "always a number": b":1\r\n",
    "always an array": b"*1\r\n$1\r\na\r\n",
    "always OK": b"+OK\r\n",
    "malformed length": b"$x\r\n",
    "more than it sends": b"$99999999\r\n",
}


@contextmanager
def lying_server(response: bytes) -> Iterator[str]:
    """The URL of a server that sends `response` for whatever it receives."""

    def respond(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(response)

    with _serving(respond) as url:
        yield url


@contextmanager
def trickling_server(piece: bytes, every_seconds: float) -> Iterator[str]:
    """The URL of a server that sends `piece` again and again from the first command on."""
    closing = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.recv(65536)
        while not closing.wait(every_seconds):
            connection.sendall(piece)

    with _serving(trickle) as url:
        try:
            yield url
        finally:
            closing.set()


@contextmanager
def _serving(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    connections: list[socket.socket] = []

    def respond(connection: socket.socket) -> None:
        with suppress(OSError):
            handle(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=respond, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
