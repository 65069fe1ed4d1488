"""A line for a descriptor that is not read is dropped after a while, whatever the descriptor is; no thread blocks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import socket
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared import descriptor_writer, log_stream
from shared.descriptor_writer import DescriptorWriter
from shared.log_stream import READER_SECONDS, LogStream

LINE = "x" * 120
LINES = 1500  # more than any of the descriptors takes without a reader
JOIN_SECONDS = 30.0  # a stream that blocks does so for good

Ends = tuple[int, int]  # one to read from, one to write to


def terminal() -> Ends:
    return pty.openpty()


def raw_terminal() -> Ends:
    reading, writing = pty.openpty()
    tty.setraw(writing)
    return reading, writing


def stopped_terminal() -> Ends:
    """As after Ctrl-S."""
    reading, writing = pty.openpty()
    termios.tcflow(writing, termios.TCOOFF)
    return reading, writing


def pipe() -> Ends:
    return os.pipe()


def named_pipe(folder: Path) -> Ends:
    path = folder / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(path, os.O_WRONLY)
    os.set_blocking(reading, True)
    return reading, writing


def stream_socket() -> Ends:
    return _descriptors(socket.socketpair())


def datagram_socket() -> Ends:
    return _descriptors(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))


def tcp_socket() -> Ends:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        writing = socket.create_connection(server.getsockname())
        writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        return _descriptors((server.accept()[0], writing))


def _descriptors(sockets: tuple[socket.socket, socket.socket]) -> Ends:
    reading, writing = sockets
    return reading.detach(), writing.detach()


KINDS = (terminal, raw_terminal, stopped_terminal, pipe, named_pipe, stream_socket, datagram_socket, tcp_socket)


@pytest.fixture
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    made = request.param(tmp_path) if request.param is named_pipe else request.param()
    yield made
    for fd in made:
        os.close(fd)


def refuse_to_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a terminal of another user, or where there is no /proc."""
    monkeypatch.setattr(descriptor_writer, "_paths", lambda _fd: iter(("/nowhere",)))


def in_thread(work: Callable[[], object]) -> bool:
    """Whether it ended; a thread that blocks is left."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(JOIN_SECONDS)
    return not thread.is_alive()


def write_lines(stream: LogStream, lines: int = LINES) -> None:
    for _ in range(lines):
        stream.write(f"{LINE}\n")


@pytest.mark.parametrize(
    ("ends", "again"),
    [*((kind, True) for kind in KINDS), *((kind, False) for kind in KINDS if "socket" not in kind.__name__)],
    indirect=["ends"],
)
def test_without_a_reader_lines_are_dropped_and_no_thread_blocks(
    ends: Ends, again: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log_stream, "READER_SECONDS", 0.1)
    if not again:
        refuse_to_open_again(monkeypatch)
    stream = LogStream(ends[1])
    assert in_thread(lambda: write_lines(stream))
    dropped: list[int] = []
    assert in_thread(lambda: dropped.append(stream.take_dropped())), "the lock is held"
    assert LINES >= dropped[0] > 0


@pytest.mark.parametrize("ends", [terminal, pipe, stream_socket], indirect=True)
def test_only_the_first_line_that_is_not_read_waits(ends: Ends, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    wait = DescriptorWriter._wait

    def counted(writer: DescriptorWriter, deadline: float) -> None:
        if (left := deadline - time.monotonic()) > READER_SECONDS / 2:
            waits.append(left)
        wait(writer, deadline)

    monkeypatch.setattr(DescriptorWriter, "_wait", counted)
    stream = LogStream(ends[1])
    assert in_thread(lambda: write_lines(stream))
    assert 1 <= len(waits) <= 4  # a line, and the note of the dropped ones if its beginning was taken


@pytest.mark.parametrize("again", [True, False], ids=["opened again", "not opened again"])
@pytest.mark.parametrize("ends", [terminal, pipe, stream_socket], indirect=True)
def test_a_reader_that_comes_back_gets_whole_lines_and_the_number_of_dropped_ones(
    ends: Ends, again: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log_stream, "READER_SECONDS", 0.1)
    if not again:
        refuse_to_open_again(monkeypatch)
    reading, writing = ends
    stream = LogStream(writing)
    assert in_thread(lambda: write_lines(stream))
    seen = bytearray()
    reader = threading.Thread(target=_read_until, args=(reading, b"the last line", seen), daemon=True)
    reader.start()

    def write_until_one_is_taken() -> None:
        while b"the last line" not in seen:
            stream.write("the last line\n")
            time.sleep(0.01)

    assert in_thread(write_until_one_is_taken)
    reader.join(JOIN_SECONDS)
    lines = seen.decode().replace("\r\n", "\n").split("\n")
    told = next(line for line in lines if "lines of the log were dropped" in line)
    assert "its reader does not read" in told
    assert lines.count(LINE) > 0
    assert (int(told.split()[0]) if os.isatty(writing) else json.loads(told)["lines"]) > 0


def _read_until(fd: int, word: bytes, seen: bytearray) -> None:
    while word not in seen and (piece := os.read(fd, 1 << 16)):
        seen += piece


@pytest.mark.parametrize("ends", KINDS, indirect=True)
def test_the_descriptor_itself_still_blocks_for_those_that_share_it(ends: Ends):
    before = fcntl.fcntl(ends[1], fcntl.F_GETFL)
    stream = LogStream(ends[1])
    stream.write("a line\n")
    assert fcntl.fcntl(ends[1], fcntl.F_GETFL) == before
    assert os.get_blocking(ends[1])


@pytest.mark.parametrize("again", [True, False], ids=["opened again", "not opened again"])
@pytest.mark.parametrize("ends", [raw_terminal, pipe, named_pipe, stream_socket, tcp_socket], indirect=True)
def test_a_long_text_reaches_a_reader_that_reads(ends: Ends, again: bool, monkeypatch: pytest.MonkeyPatch):
    if not again:
        refuse_to_open_again(monkeypatch)
    reading, writing = ends
    text, seen = "0123456789" * 20_000 + "end", bytearray()
    reader = threading.Thread(target=_read_until, args=(reading, b"end\n", seen), daemon=True)
    reader.start()
    stream = LogStream(writing)
    assert in_thread(lambda: stream.write(f"{text}\n"))
    reader.join(JOIN_SECONDS)
    assert (seen.decode(), stream.take_dropped()) == (f"{text}\n", 0)


class AlwaysReady:
    """`poll` for which the room that it has seen is gone at the write: another process has filled the pipe."""

    def register(self, *_: int) -> None:
        pass

    def poll(self, _milliseconds: float) -> list[int]:
        return [1]


def test_room_that_another_process_takes_first_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, bytes(4096))
    monkeypatch.setattr(select, "poll", AlwaysReady)
    stream = LogStream(writing)
    assert in_thread(lambda: stream.write("a line\n"))
    assert stream.take_dropped() == 1
    os.close(reading)
    os.close(writing)


def test_a_stream_closes_the_descriptors_that_it_has_opened_and_children_inherit_none():
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = open_descriptors()
        streams = [LogStream(writing), LogStream(ours.fileno())]
        own = open_descriptors() - before
        assert len(own) == 2
        assert not any(map(os.get_inheritable, own))
        del streams
        assert open_descriptors() == before
    os.close(reading)
    os.close(writing)


def open_descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the folder itself
            os.fstat(int(name))
            found.add(int(name))
    return found


def test_a_thread_that_cannot_be_started_drops_the_line(monkeypatch: pytest.MonkeyPatch):
    refuse_to_open_again(monkeypatch)
    reading, writing = pty.openpty()
    stream = LogStream(writing)

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        stream.write("a line\n")
    assert stream.take_dropped() == 1
    stream.write("the next\n")
    seen = bytearray()
    assert in_thread(lambda: _read_until(reading, b"the next", seen))
    assert b"can't start new thread" in seen
    os.close(reading)
    os.close(writing)
