"""API and worker with a standard error that takes nothing: they answer, train, outlive a locked database, and stop."""

from __future__ import annotations

import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import pytest
from support.postgres import free_port
from support.service import GRADQ, PATIENCE
from support.waiting import wait_for

from shared.heartbeat import of_process

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /dev/full"),
]
LOCKED_SECONDS = 13.0  # longer than a process waits for SQLite's write lock


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def without_reader() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def without_reading() -> int:
    """A full pipe whose other end stays open, as that of a log collector that hangs."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, bytes(1 << 16))
    os.set_blocking(write, True)
    OPEN.append(read)
    return write


def unread_terminal() -> int:
    """A full terminal whose other end stays open, as that of a connection that hangs."""
    read, write = pty.openpty()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write, bytes(1 << 10))
    os.set_blocking(write, True)
    OPEN.append(read)
    return write


OPEN: list[int] = []  # ends of pipes and terminals
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(
    params=[full, without_reader, without_reading, unread_terminal, None],
    ids=["full", "without reader", "without reading", "unread terminal", "closed"],
)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """start("api"): a verb whose standard output and error are such a stream."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    env = {**plain, "GRADQ_STATE_DIR": str(tmp_path), "GRADQ_REDIS_URL": f"redis+socket://{tmp_path}/nobody.sock"}
    env |= {"GRADQ_LEASE_SECONDS": "4", "GRADQ_RECONCILE_SECONDS": "0.5", "GRADQ_SLOTS": "1"}
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [*GRADQ, *words]
        if request.param is None:
            closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
            started.append(subprocess.Popen(closed, env=env))
        else:
            stream = request.param()
            started.append(subprocess.Popen(command, env=env, stdout=stream, stderr=stream))
            os.close(stream)
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
    while OPEN:
        os.close(OPEN.pop())


def test_no_part_dies_of_its_log(start: Start, tmp_path: Path) -> None:
    assert start("migrate").wait(PATIENCE) == 0
    port = free_port()
    api, worker = start("api", "--port", str(port), "--workers", "1"), start("worker")
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        wait_for(lambda: answers(http), PATIENCE, "the API")
        wait_for(lambda: http.get("/v1/workers").json()["data"], PATIENCE, "the worker")
        job_id = http.post("/v1/jobs", json={"epochs": 2000, "architecture": "linear", "batch_size": 1}).json()["id"]
        wait_for(lambda: http.get(f"/v1/jobs/{job_id}").json()["status"] == "running", PATIENCE, "the first attempt")
        beats = of_process(tmp_path, worker.pid)
        with closing(sqlite3.connect(tmp_path / "gradq.db", isolation_level=None)) as locked:
            locked.execute("BEGIN IMMEDIATE")  # each thread of the worker has an error to log now
            assert api.poll() is None
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(LOCKED_SECONDS)
            locked.execute("ROLLBACK")
        wait_for(lambda: http.get("/v1/workers").json()["data"], PATIENCE, "the worker after the lock")
        wait_for(lambda: http.get(f"/v1/jobs/{job_id}").json()["attempt"] >= 1, PATIENCE, "the job")
        assert http.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        wait_for(lambda: http.get(f"/v1/jobs/{job_id}").json()["terminal"], PATIENCE, "the end of the job")
        later = of_process(tmp_path, worker.pid)
        assert beats is not None
        assert later is not None
        assert later.rounds > beats.rounds
        assert "gradq_log_lines_dropped_total" in http.get("/metrics").text
    for part in (worker, api):
        part.terminate()
        assert part.wait(PATIENCE) == 0
    assert not (tmp_path / "tmp").exists()


def answers(http: httpx2.Client) -> bool:
    try:
        return http.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False
