"""A thread waits for a client only with a place, and only while the client keeps the minimum rate."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.postgres import part_missing

from api.connections import client_socket
from api.connections.client_socket import MIN_BYTES, PATIENCE_SECONDS, UNSENT_BYTES, ClientSocket, ClientTooSlow
from api.connections.places import Places

LARGE = bytes(range(256)) * 8192  # 2 MiB: more than the buffers of a pair of sockets
SIOCOUTQNSD = 0x894B  # see linux/sockios.h


class Client:
    """The other end. `acts` is called each time that the service waits, and returns how many seconds that takes."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.waits = 0
        self.received = b""
        self.acts: Callable[[], float] = lambda: PATIENCE_SECONDS

    def read(self, size: int) -> None:
        self.received += self.end.recv(size)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ClientSocket, Client]]:
    """Both ends of a connection, and a clock that only the client's acts move."""
    ours, theirs = socket.socketpair()
    connection, client, now = ClientSocket(ours), Client(theirs), 0.0

    class Poll:
        def register(self, number: int, event: int) -> None:
            assert event in (select.POLLIN, select.POLLOUT)

        def poll(self, milliseconds: float) -> None:
            nonlocal now
            client.waits += 1
            now += min(milliseconds / 1000, client.acts())

    monkeypatch.setattr(client_socket.select, "poll", Poll)
    monkeypatch.setattr(client_socket.time, "monotonic", lambda: now)
    yield connection, client
    connection.close()
    theirs.close()


def waiting(connection: ClientSocket, places: Places) -> ClientSocket:
    connection.take_place = lambda: places.enter("anna")
    return connection


class TestPlaces:
    def test_what_the_buffers_take_needs_no_place(self, pair):
        connection, client = pair
        waiting(connection, Places(1)).sendall(b"small")
        client.end.sendall(b"request")
        assert connection.recv(100) == b"request"
        assert (client.end.recv(100), client.waits) == (b"small", 0)

    @pytest.mark.parametrize("call", ["recv", "sendall", "sendfile"])
    def test_without_a_place_nothing_waits(self, pair, call, tmp_path: Path):
        connection, client = pair
        places = Places(1)
        places.enter("bert")
        with pytest.raises(ClientTooSlow, match="no place"):
            run(waiting(connection, places), call, tmp_path)
        assert client.waits == 0

    @pytest.mark.parametrize("call", ["recv", "sendall", "sendfile"])
    def test_after_the_request_nothing_waits(self, pair, call, tmp_path: Path):
        connection, client = pair
        waiting(connection, Places(1)).end_request()
        with pytest.raises(ClientTooSlow):
            run(connection, call, tmp_path)
        assert client.waits == 0

    def test_a_request_has_one_place_until_its_end(self, pair):
        connection, client = pair
        places = Places(2)
        client.acts = lambda: client.end.send(b"more") * 1.0
        waiting(connection, places)
        assert connection.enter()
        assert [connection.recv(4) for _ in range(3)] == [b"more"] * 3
        assert places.enter("bert") is not None
        assert places.enter("carl") is None
        connection.end_request()
        assert places.enter("carl") is not None

    def test_a_stream_has_one_during_each_write_that_waits(self, pair):
        connection, client = pair
        places, seen = Places(1), []
        waiting(connection, places).leaves_after_write = True

        def read() -> float:
            seen.append(places.in_use)
            client.read(1 << 20)
            return 1.0

        client.acts = read
        for _ in range(2):
            connection.sendall(LARGE)
            assert places.in_use == 0
        assert set(seen) == {1}
        places.enter("bert")
        with pytest.raises(ClientTooSlow, match="no place"):
            connection.sendall(LARGE)

    def test_the_next_request_of_its_connection_is_none(self, pair):
        connection, client = pair
        places = Places(1)
        connection.leaves_after_write = True
        connection.end_request()
        client.acts = lambda: client.read(1 << 20) or 1.0
        waiting(connection, places).sendall(LARGE)
        assert places.in_use == 1

    def test_setting_it_to_blocking_has_no_effect(self, pair):
        connection, _ = pair
        connection.setblocking(True)
        connection.settimeout(20)
        with pytest.raises(BlockingIOError):
            connection.recv(1, socket.MSG_DONTWAIT)
        assert connection.gettimeout() == 0


@pytest.fixture
def accepted() -> Iterator[ClientSocket]:
    """The server's end of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection = ClientSocket(listener.accept()[0])
        yield connection
        connection.close()
        client.close()


@pytest.mark.parametrize(("name", "value"), [("TCP_USER_TIMEOUT", 30_000), ("TCP_NOTSENT_LOWAT", 256 << 10)])
def test_the_kernel_has_the_limits_of_what_it_stores(accepted: ClientSocket, name: str, value: int) -> None:
    """Milliseconds without an acknowledgement, and unsent bytes."""
    if not hasattr(socket, name):
        part_missing(f"this system has no {name}")
    assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how many bytes are unsent")
def test_what_a_client_does_not_read_stays_with_the_sender(accepted: ClientSocket) -> None:
    """Although the kernel's buffer for the connection could grow to 4 MiB; one segment may exceed the limit."""
    with pytest.raises(ClientTooSlow, match="no place"):
        for _ in range(1000):
            accepted.sendall(bytes(64 << 10))
    [unsent] = struct.unpack("i", fcntl.ioctl(accepted, SIOCOUTQNSD, bytes(4)))
    assert 0 < unsent <= UNSENT_BYTES + (128 << 10)


def run(connection: ClientSocket, call: str, folder: Path) -> object:
    if call == "recv":
        return connection.recv(1)
    if call == "sendall":
        return connection.sendall(LARGE)
    (folder / "large").write_bytes(LARGE)
    with (folder / "large").open("rb") as file:
        return connection.sendfile(file)


class TestRate:
    @pytest.mark.parametrize("call", ["recv", "sendall", "sendfile"])
    def test_a_client_that_does_nothing_is_given_up_after_the_patience(self, pair, call, tmp_path: Path):
        connection, client = pair
        with pytest.raises(ClientTooSlow, match="in 30 s"):
            run(waiting(connection, Places(1)), call, tmp_path)
        assert client.waits == 1

    def test_a_byte_now_and_then_is_too_slow(self, pair):
        connection, client = pair
        client.acts = lambda: client.end.send(b"x") * (PATIENCE_SECONDS / 3)
        with pytest.raises(ClientTooSlow):
            for _ in range(10):
                waiting(connection, Places(1)).recv(1)
        assert client.waits == 3

    def test_bytes_that_came_quickly_are_no_credit_for_later(self, pair):
        connection, client = pair
        client.acts = lambda: client.end.send(bytes(MIN_BYTES)) and PATIENCE_SECONDS / 2
        waiting(connection, Places(1))
        received = sum(len(connection.recv(MIN_BYTES)) for _ in range(6))
        assert received == 6 * MIN_BYTES
        client.acts = lambda: client.end.send(b"x") and PATIENCE_SECONDS
        with pytest.raises(ClientTooSlow):
            for _ in range(2):
                connection.recv(1)

    def test_a_reader_at_four_kilobytes_per_second_gets_everything(self, pair):
        """Seen in steps of 64 KiB, as the reader's kernel announces room."""
        connection, client = pair

        def read() -> float:
            client.read(64 << 10)
            return 16.0

        client.acts = read
        waiting(connection, Places(1)).sendall(LARGE[: 1 << 20])
        connection.close()
        while len(client.received) < 1 << 20:
            client.read(1 << 20)
        assert client.received == LARGE[: 1 << 20]

    @pytest.mark.parametrize(("offset", "count"), [(0, None), (100, None), (100, 1 << 20), (0, 10)])
    def test_a_file_is_sent_from_its_offset(self, pair, tmp_path: Path, offset, count):
        connection, client = pair
        (tmp_path / "large").write_bytes(LARGE)

        def read() -> float:
            client.read(1 << 20)
            return 1.0

        client.acts = read
        expected = LARGE[offset:] if count is None else LARGE[offset : offset + count]
        with (tmp_path / "large").open("rb") as file:
            assert waiting(connection, Places(1)).sendfile(file, offset, count) == len(expected)
        connection.close()
        while piece := client.end.recv(1 << 20):
            client.received += piece
        assert client.received == expected


def test_a_request_that_gets_a_place_ends_its_turn_once(pair):
    connection, _ = pair
    places, ends = Places(1), []
    waiting(connection, places)
    connection.on_waiting = lambda: ends.append(places.in_use)
    assert [connection.enter(), connection.enter()] == [True, True]
    assert ends == [1]
    connection.end_request()
    assert connection.on_waiting is None


def test_a_request_without_a_place_keeps_its_turn(pair):
    connection, _ = pair
    waiting(connection, Places(0))
    connection.on_waiting = lambda: pytest.fail("it waits for nothing")
    assert not connection.enter()
