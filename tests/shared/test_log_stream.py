"""A log that cannot be written never reaches the code that logs: what is dropped is counted, and told later."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.disk import SmallDisk, why_no_disks

from shared.log_stream import LogStream

LOGS = """
import logging, sys, threading, warnings
import structlog
from shared import logs
logs.configure("DEBUG")
log = structlog.get_logger()
for number in range(3):
    log.info("a line", number=number)
try:
    raise RuntimeError("nobody there")
except RuntimeError:
    log.exception("it went wrong")
handler = logging.StreamHandler()  # as those of gunicorn, Celery and kombu
logging.getLogger().addHandler(handler)
logging.getLogger("celery").error("a line of a library")
print("printed", flush=True)
print("printed", file=sys.__stdout__, flush=True)
warnings.warn("take care")
thread = threading.Thread(target=lambda: 1 / 0)  # its traceback goes to standard error
thread.start()
thread.join()
sys.stderr.write("the end of the program, without a line's end")
with open(sys.argv[1], "w") as done:
    done.write(str(__import__("shared.log_stream").log_stream.newly_dropped()))
"""


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def without_reader() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def read_only() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def asleep() -> int:
    """A pipe that is full, whose reader does not read. The reading end stays open in this process."""
    _, write = os.pipe()
    os.set_blocking(write, False)
    while True:
        try:
            os.write(write, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    return write


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
@pytest.mark.parametrize("stream", [full, without_reader, read_only, asleep, None])
def test_a_program_goes_on_whatever_becomes_of_its_log(stream: Callable[[], int] | None, tmp_path: Path):
    done = tmp_path / "done"
    program = [sys.executable, "-c", LOGS, str(done)]
    if stream is None:  # closed
        subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *program], check=True, timeout=60)
        return
    place = stream()
    subprocess.run(program, stdout=place, stderr=place, check=True, timeout=60)
    os.close(place)
    assert int(done.read_text()) >= 8


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path):
    file = tmp_path / "database"
    program = (
        "from shared.log_stream import hold_streams; hold_streams()\n"
        f"import os, sys; kept = open({str(file)!r}, 'w'); print('a line', file=sys.stderr); os.write(2, b'more')"
    )
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program], check=True, timeout=60)
    assert file.read_text() == ""


def test_a_line_that_cannot_be_made_is_dropped_like_one_that_cannot_be_written():
    program = (
        "import structlog, sys; from shared import logs, log_stream; logs.configure('INFO')\n"
        "class Mute:\n    def __repr__(self): raise RuntimeError('no text')\n"
        "structlog.get_logger().info('a line', value=Mute())\n"
        "structlog.get_logger().info('the next', text='\\ud800')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    told, line = map(json.loads, ran.stderr.splitlines())
    assert (told["lines"], "RuntimeError" in told["reason"]) == (1, True)
    assert line["event"] == "the next"


class FaultyWrites:
    """`os.write` of a disk with room for some bytes, or with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.real = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: Any) -> int:
        if self.room is None:
            return self.real(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.real(fd, data[: self.room])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyWrites:
    return FaultyWrites(monkeypatch)


def test_dropped_lines_are_told_once_there_is_room_again(tmp_path: Path, disk: FaultyWrites):
    with (tmp_path / "log").open("wb") as file:
        stream = LogStream(file.fileno())
        print("first", file=stream)
        disk.room = 0
        for _ in range(1000):
            print("lost", file=stream)
        disk.room = None
        print("last", file=stream)
        print("after it", file=stream)
    first, told, last, after = (tmp_path / "log").read_text().splitlines()
    assert (first, last, after) == ("first", "last", "after it")
    assert json.loads(told)["lines"] == 1000
    assert json.loads(told)["reason"] == "No space left on device"
    assert (stream.take_dropped(), stream.take_dropped()) == (1000, 0)


def test_a_line_that_was_cut_off_by_the_end_of_the_disk_does_not_run_into_the_next(tmp_path: Path, disk: FaultyWrites):
    with (tmp_path / "log").open("wb") as file:
        stream = LogStream(file.fileno())
        disk.room = 4
        print("a long line", file=stream)
        disk.room = None
        print("next", file=stream)
    begun, told, following = (tmp_path / "log").read_text().splitlines()
    assert (begun, json.loads(told)["lines"], following) == ("a lo", 1, "next")


@pytest.mark.skipif(why_no_disks() is not None, reason="no tmpfs can be mounted")
def test_a_real_disk_that_is_full_and_has_room_again(tmp_path: Path):
    disk = SmallDisk(tmp_path / "disk", 1)
    try:
        with (disk.path / "log").open("ab") as file:
            stream = LogStream(file.fileno())
            print("first", file=stream)
            disk.fill()
            for _ in range(200):
                print("x" * 100, file=stream)  # the first of them have room in the file's last page
            disk.free()
            print("last", file=stream)
        lines = (disk.path / "log").read_text().splitlines()
    finally:
        disk.unmount()
    told = json.loads(lines[-2])
    assert (lines[0], lines[-1], told["reason"]) == ("first", "last", "No space left on device")
    assert lines.count("x" * 100) + told["lines"] == 200


def test_lines_of_several_threads_and_of_signal_handlers_stay_whole(tmp_path: Path):
    with (tmp_path / "log").open("wb") as file:
        stream = LogStream(file.fileno())
        signal.signal(signal.SIGALRM, lambda *_: stream.write("signal\n") and None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            writers = [threading.Thread(target=_write_lines, args=(stream,)) for _ in range(4)]
            for writer in writers:
                writer.start()
            _write_lines(stream)
            for writer in writers:
                writer.join()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if line != "signal"]
    assert lines == ["a line of some length"] * 1000


def _write_lines(stream: LogStream) -> None:
    for _ in range(200):
        stream.write("a line of some length\n")


def test_a_long_line_reaches_a_slow_reader_whole():
    read, write = os.pipe()
    stream, line = LogStream(write), "x" * 300_000
    received: list[bytes] = []

    def receive() -> None:
        while piece := os.read(read, 10_000):
            received.append(piece)

    reader = threading.Thread(target=receive)
    reader.start()
    print(line, file=stream)
    assert stream.take_dropped() == 0
    del stream  # it has a descriptor of its own
    os.close(write)
    reader.join()
    os.close(read)
    assert b"".join(received).decode() == line + "\n"


def test_streams_that_a_program_has_replaced_stay():
    program = (
        "import io, sys; sys.stderr = mine = io.StringIO(); from shared.log_stream import *; hold_streams()\n"
        "assert sys.stderr is mine and isinstance(sys.stdout, LogStream)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_no_line_has_a_secret_whoever_writes_it():
    program = (
        "import logging, sys, structlog; from shared import logs; logs.configure('INFO', {'hush', 'hush-hush', 'ab'})\n"
        "structlog.get_logger().info('cannot store', error=\"failed 'key:hush@bucket'\")\n"
        "logging.getLogger('kombu').error('at redis://:hush-hush@h, ab')\n"
        "print('hush'); raise RuntimeError('hush')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "hush" not in ran.stdout + ran.stderr
    assert "key:***@bucket" in ran.stderr
    assert "at redis://:***@h, ab" in ran.stderr
    assert "RuntimeError: ***" in ran.stderr
