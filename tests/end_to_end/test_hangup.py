"""SIGHUP stops a worker and the API as SIGTERM does: running jobs are queued with their checkpoints, and no attempt is
counted. Under nohup it has no effect."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx2
import psutil
import pytest
from support.postgres import free_port
from support.service import GRADQ, PATIENCE, Service
from support.signals import default_hangup
from support.waiting import wait_for

from gradq.local.api_process import PROCESSES

pytestmark = pytest.mark.long

# minutes of training; stopped long before
ENDLESS: dict[str, Any] = {
    "architecture": "linear",
    "batch_size": 1,
    "epochs": 2000,
    "seed": 5,
    "checkpoint": {"every_seconds": 0.3},
    "max_attempts": 1,
}
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def service(start_service: Callable[..., Service]) -> Service:
    """Without a worker: each test starts its own."""
    return start_service(workers=0)


# a session of its own, whose controlling terminal is the one that it opens first
LOGIN = """
import os, sys
os.setsid()
fd = os.open(sys.argv[1], os.O_RDWR)
for number in range(3):
    os.dup2(fd, number)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def start(service: Service) -> Iterator[Start]:
    """start(*command): a process that writes to a file."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        with (service.folder / "hung-up.log").open("ab") as log, default_hangup():
            process = subprocess.Popen(command, env=service.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.wait(PATIENCE)


def running_job(service: Service) -> str:
    wait_for(service.live_workers, PATIENCE, "the worker")
    job_id: str = service.submit(**ENDLESS)["id"]
    service.wait_for_checkpoint(job_id)
    return job_id


def assert_released(service: Service, job_id: str) -> None:
    job = service.job(job_id)
    assert (job["status"], job["attempts"][0]["outcome"]) == ("queued", "drained"), job["attempts"]
    assert service.events(job_id, "checkpoint")
    assert not service.live_workers()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_the_job_of_a_worker_that_gets_a_signal_is_queued_with_its_checkpoint(
    service: Service, start: Start, number: signal.Signals
) -> None:
    worker = start(*GRADQ, "worker")
    job_id = running_job(service)
    worker.send_signal(number)
    assert worker.wait(PATIENCE) == 0
    assert_released(service, job_id)


def test_the_job_of_a_worker_whose_terminal_is_closed_is_queued_with_its_checkpoint(
    service: Service, start: Start
) -> None:
    reading, writing = pty.openpty()
    worker = start(sys.executable, "-c", LOGIN, os.ttyname(writing), *GRADQ, "worker")
    job_id = running_job(service)
    os.close(writing)
    os.close(reading)
    assert worker.wait(PATIENCE) == 0
    assert_released(service, job_id)


def test_under_nohup_a_worker_outlives_its_terminal(service: Service, start: Start) -> None:
    worker = start("nohup", *GRADQ, "worker")
    job_id = running_job(service)
    worker.send_signal(signal.SIGHUP)
    later = len(service.events(job_id, "checkpoint")) + 3
    wait_for(lambda: len(service.events(job_id, "checkpoint")) >= later, PATIENCE, "further checkpoints")
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert_released(service, job_id)


def processes_of_api(port: int, api: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Of an API that answers, the first its parent."""

    def answers() -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        return False

    wait_for(answers, PATIENCE, "the API")
    parent = psutil.Process(api.pid)
    wait_for(lambda: len(parent.children()) == PROCESSES, PATIENCE, "all processes of the API")
    return [parent, *parent.children(recursive=True)]


def test_an_api_whose_terminal_is_closed_stops(service: Service, start: Start) -> None:
    reading, writing = pty.openpty()
    port = free_port()
    command = (*GRADQ, "api", "--port", str(port))
    api = start(sys.executable, "-c", LOGIN, os.ttyname(writing), *command)
    processes = processes_of_api(port, api)
    os.close(writing)
    os.close(reading)
    assert api.wait(PATIENCE) == 0
    assert psutil.wait_procs(processes, PATIENCE)[1] == []


def test_an_api_that_gets_a_hangup_stops_and_its_processes_leave_that_to_it(service: Service, start: Start) -> None:
    port = free_port()
    api = start(*GRADQ, "api", "--port", str(port))
    processes = processes_of_api(port, api)
    for child in processes[1:]:
        child.send_signal(signal.SIGHUP)
    assert processes_of_api(port, api) == processes
    api.send_signal(signal.SIGHUP)
    assert api.wait(PATIENCE) == 0
    assert psutil.wait_procs(processes, PATIENCE)[1] == []


def test_under_nohup_an_api_outlives_its_terminal(service: Service, start: Start) -> None:
    port = free_port()
    api = start("nohup", *GRADQ, "api", "--port", str(port))
    processes = processes_of_api(port, api)
    for process in processes:
        process.send_signal(signal.SIGHUP)
    assert processes_of_api(port, api) == processes
    api.terminate()
    assert api.wait(PATIENCE) == 0
