"""`gradq up` as a whole: ready, jobs, restarts of its parts, and that no process is left, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from sqlalchemy import text
from support.disk import SmallDisk, why_no_disks
from support.waiting import wait_for

from gradq.client.blocking import Client
from gradq.client.problems import Unreachable
from shared.db.database import Database

LONG_JOB = {"epochs": 10_000, "batch_size": 1, "architecture": "linear", "checkpoint": {"every_seconds": 1}}


class Up:
    """One `gradq up` in a process of its own."""

    def __init__(self, state: Path, *arguments: str, **environment: str) -> None:
        self.state = state
        self.output = state.parent / f"{state.name[:20]}-up.log"
        env = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
        env |= {"GRADQ_LEASE_SECONDS": "3", "GRADQ_RECONCILE_SECONDS": "0.3", "GRADQ_GRACE_SECONDS": "5", **environment}
        command = [sys.executable, "-m", "gradq", "up", "--port", "0", "--slots", "1", "--threads", "1"]
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--state", str(state), *arguments], env=env, stdout=log, stderr=log, start_new_session=True
            )

    def said(self) -> list[str]:
        return self.output.read_text().splitlines()

    def wait_until_ready(self) -> Client:
        def ready() -> str | None:
            assert self.process.poll() is None, self.output.read_text()
            return next((line for line in self.said() if line.startswith("ready ")), None)

        return Client(wait_for(ready, 200, "the ready line").removeprefix("ready "))

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, words: str) -> psutil.Process:
        return next(
            child for child in psutil.Process(self.process.pid).children() if words in " ".join(child.cmdline())
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(150)


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path short enough for sockets, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="gq-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def up(folder: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str, state: str = "state", **environment: str) -> Up:
        started.append(Up(folder / state, *arguments, **environment))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            family = service.family()
            service.process.kill()
            service.process.wait()
            psutil.wait_procs(family, timeout=30)


def assert_all_gone(processes: list[psutil.Process], seconds: float = 0.0) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    alive = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not alive, [process.cmdline() for process in alive]


def assert_nothing_is_wrong(service: Up) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    command = [sys.executable, "-m", "gradq", "doctor", "--state", str(service.state)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (result.returncode, "no problem, no warning" in result.stdout) == (0, True), result.stdout


def start_long_job(client: Client) -> str:
    job_id = str(client.submit(LONG_JOB)["id"])
    wait_for(lambda: (client.job(job_id)["progress"] or {}).get("step"), 150, "the first steps")
    return job_id


def assert_takes_jobs(client: Client) -> None:
    job_id = client.submit({"gradients": "manual", "epochs": 2, "seed": 1})["id"]
    wait_for(lambda: client.job(job_id)["terminal"], 150, "the end of the job")
    assert client.job(job_id)["status"] == "succeeded"
    assert "model.safetensors" in [artifact["name"] for artifact in client.job(job_id).artifacts()]


def assert_ends_with_all_its_parts(service: Up, number: signal.Signals) -> None:
    family = service.family()
    assert len(family) >= 4
    assert service.end(number) == 0
    assert_all_gone(family)
    said = service.said()
    assert said[0].startswith("starting broker and worker; the worker imports PyTorch")
    assert said[1:3] == ["preparing the database", "starting the API"]
    places = [said.index(line) for line in ("stopping api and broker", "stopped")]
    assert any(line.startswith("stopping: the worker") for line in said[: places[0]])
    assert places == [len(said) - 2, len(said) - 1]


@pytest.mark.long
def test_a_job_under_way_is_queued_at_the_end_and_goes_on_at_the_next_start(up):
    service = up()
    with service.wait_until_ready() as client:
        job_id = start_long_job(client)
        family = service.family()
        assert service.end() == 0
    assert_all_gone(family)
    assert not any("killed" in line for line in service.said())
    again = up()
    with again.wait_until_ready() as client:
        wait_for(lambda: client.job(job_id)["status"] == "running", 150, "the second attempt")
        attempts = wait_for(
            lambda: (found := client.job(job_id)["attempts"]) and found[-1]["resumed_from_step"] and found,
            150,
            "a resume",
        )
        assert attempts[0]["outcome"] == "drained"
        client.job(job_id).cancel()
        assert (
            wait_for(lambda: (job := client.job(job_id))["terminal"] and job["status"], 150, "the end") == "cancelled"
        )
    assert again.end() == 0


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux signals a child when its parent dies")
def test_sigkill_leaves_no_child_behind(up):
    service = up()
    with service.wait_until_ready() as client:
        start_long_job(client)
    family = service.family()
    service.end(signal.SIGKILL)
    assert_all_gone(family, seconds=40)


def assert_refuses_a_second(first: Up) -> None:
    command = [sys.executable, "-m", "gradq", "up", "--port", "0", "--state", str(first.state)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"pid {first.process.pid}" in second.stderr


@pytest.mark.long
def test_a_second_service_in_the_same_folder_is_refused_and_parts_that_die_are_started_again(up):
    service = up()
    with service.wait_until_ready() as client:
        assert_refuses_a_second(service)
        for part in [service.part(words) for words in ("redis.sock", "gunicorn", "worker_process")]:
            part.kill()
        wait_for(lambda: sum("restarted" in line for line in service.said()) >= 3, 30, "three restarts")
        job_id = wait_for(lambda: client.ready() and client.submit({"epochs": 1})["id"], 150, "the API")
        # a process of the killed API may answer once more and then close the connection
        job = wait_for(lambda: answer(client, job_id, lambda job: job["terminal"]), 150, "the end of the job")
        assert job["status"] == "succeeded"
    assert service.end() == 0


def answer(client, job_id, holds):
    """The job if `holds` is true of it; None if not, or if the API is unreachable."""
    try:
        job = client.job(job_id)
    except Unreachable:
        return None
    return job if holds(job) else None


@pytest.mark.long
def test_the_bundled_broker_serves_where_the_path_has_none_and_ctrl_c_ends_it(up, tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    service = up(PATH=str(empty))
    with service.wait_until_ready() as client:
        assert any("valkey-server" in line for line in service.said())
        assert_takes_jobs(client)
    assert_ends_with_all_its_parts(service, signal.SIGINT)


@pytest.mark.long
def test_a_long_state_folder_works_and_leaves_nothing_elsewhere(up):
    service = up(state="long-" + "x" * 150)
    with service.wait_until_ready() as client:
        assert_takes_jobs(client)
        assert_nothing_is_wrong(service)
        socket = next(word for word in service.part("redis.sock").cmdline() if "redis.sock" in word)
        short = [
            Path(socket.removeprefix("unixsocket:")).parent,
            Path(service.part("worker_process").children()[0].environ()["TMPDIR"]).parent,
        ]
    assert not any(path.is_relative_to(service.state) for path in short)
    assert_ends_with_all_its_parts(service, signal.SIGTERM)
    assert not any(path.exists() for path in short)


# --- the start --------------------------------------------------------------------------------------------------------


def all_of(service: Up) -> list[psutil.Process]:
    """All processes that have the service's state folder, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GRADQ_STATE_DIR") == str(service.state):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def wait_until_it_says(service: Up, beginning: str) -> str:
    def line() -> str | None:
        return next((line for line in service.said() if line.startswith(beginning)), None)

    return wait_for(line, 200, f"the line {beginning!r}", every=0.005)


def has_part(service: Up, words: str) -> bool:
    return any(words in " ".join(child.cmdline()) for child in psutil.Process(service.process.pid).children())


def assert_failed(service: Up, code: int) -> list[str]:
    """The parts that had been started meanwhile have ended, too. Returns what was said."""
    assert service.process.wait(200) == code, service.output.read_text()
    assert all_of(service) == []
    assert not any(line.startswith("ready") for line in service.said())
    return service.said()


@pytest.mark.long
def test_a_part_that_cannot_start_ends_the_attempt_with_its_log(up):
    service = up(GUNICORN_CMD_ARGS="--nonsense")
    said = assert_failed(service, 1)
    assert any("api keeps dying" in line for line in said)
    assert any("--nonsense" in line for line in said)


@pytest.mark.long
def test_a_broker_that_does_not_answer_ends_the_attempt_although_all_other_parts_work(up, tmp_path):
    fake = tmp_path / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\ncase $1 in --version) echo Redis server v=7.0.0;; *) exec sleep 1000;; esac\n")
    fake.chmod(0o700)
    service = up(PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert any(f"{fake} does not answer" in line for line in assert_failed(service, 1))


@pytest.mark.long
def test_a_database_of_a_newer_version_is_one_sentence_and_ends_the_attempt(up):
    service = up()
    service.wait_until_ready().close()
    assert service.end() == 0
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    database.close()
    again = up()
    assert again.process.wait(200) == 2
    assert all_of(again) == []
    *_, last = again.said()
    assert last.startswith("gradq: the database is at revision 0099, which gradq")


@pytest.mark.long
@pytest.mark.parametrize("beginning", ["preparing the database", "starting the API", "the API answers"])
def test_a_sigterm_during_the_start_stops_what_has_been_started(up, beginning):
    service = up()
    wait_until_it_says(service, beginning)
    assert service.end() == 0
    assert all_of(service) == []
    said = service.said()
    assert said[-1] == "stopped"
    assert not any(line.startswith("ready") for line in said)
    assert list((service.state / "broker").glob("*")) == []
    again = up()  # nothing is in its way
    again.wait_until_ready().close()
    assert again.end() == 0


@pytest.mark.long
def test_parts_that_die_during_the_start_are_started_again_and_ready_is_said_of_the_new_ones(up):
    service = up()
    wait_for(lambda: has_part(service, "api_process"), 200, "the API's process", every=0.005)
    service.part("api_process").kill()
    wait_until_it_says(service, "api restarted")
    wait_until_it_says(service, "starting the API")
    service.part("worker_process").kill()
    with service.wait_until_ready() as client:
        restarted = wait_until_it_says(service, "worker restarted, pid ")
        [worker] = client.workers()
        assert restarted.endswith(f" {worker['pid']}")
        assert_takes_jobs(client)
    assert service.end() == 0
    assert all_of(service) == []


@pytest.mark.long
def test_the_demo_trains_both_ways_and_cleans_up(tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    env |= {"GRADQ_DATA_DIR": str(tmp_path), "COLUMNS": "100"}
    command = [sys.executable, "-m", "gradq", "demo"]
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for gradients in ("manual", "autograd"):
        folder = tmp_path / "demo-output" / f"digits-{gradients}"
        assert (folder / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "model.safetensors").is_file()
    assert "not shown: mnist" in result.stdout
    said = (tmp_path / "demo-output" / "service.log").read_text()
    assert said.endswith("stopped\n")


ON_A_SMALL_DISK = {
    "epochs": 80,
    "seed": 3,
    "batch_size": 1,
    "architecture": "linear",
    "checkpoint": {"every_seconds": 1},
}


@pytest.mark.long
@pytest.mark.skipif(why_no_disks() is not None, reason=f"no small disk: {why_no_disks()}")
def test_a_full_disk_stops_nothing_for_good(up, folder):
    """State, database, broker and all logs are on one disk, which is full while a job runs."""
    disk = SmallDisk(folder / "disk", 60)
    try:
        service = up(state="disk/state")
        with service.wait_until_ready() as client, httpx2.Client(base_url=client.url, timeout=60) as http:
            whole = client.submit(ON_A_SMALL_DISK).wait(timeout=300)
            job_id = client.submit(ON_A_SMALL_DISK)["id"]
            wait_for(lambda: (client.job(job_id)["progress"] or {}).get("epoch"), 150, "the first epoch")
            family = service.family()
            assert client.job(job_id)["status"] == "running"
            disk.fill()
            seen = answers_of(http, job_id, seconds=20)
            disk.free()
            assert seen["/healthz"] == {200}
            assert seen["/v1/version"] == {200}
            assert seen[f"/v1/jobs/{job_id}"] <= {200, 503}
            assert seen["POST"] <= {202, 503}
            assert 503 in seen["POST"]
            wait_for(lambda: http.post("/v1/jobs", json={"epochs": 1}).status_code == 202, 150, "room for another job")
            wait_for(client.workers, 150, "a live worker")
            ended = client.job(job_id).wait(timeout=300)
            assert ended["status"] == "succeeded", ended["attempts"]
            assert ended["result"]["weights_sha256"] == whole["result"]["weights_sha256"]
            assert "lines of the log were dropped" in (service.state / "logs" / "api.log").read_text()
        assert service.process.poll() is None
        assert service.end() == 0
        assert_all_gone(family)
    finally:
        disk.unmount()


def answers_of(http: httpx2.Client, job_id: str, seconds: float) -> dict[str, set[int]]:
    """The status of each answer while requests are sent one after the other: none is left without one."""
    seen: dict[str, set[int]] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path in ("/healthz", "/v1/version", f"/v1/jobs/{job_id}", "/v1/jobs", "/readyz", "/nothing"):
            seen.setdefault(path, set()).add(http.get(path).status_code)
        seen.setdefault("POST", set()).add(
            http.post("/v1/jobs", json={"epochs": 1, "labels": {"x": "y" * 60}}).status_code
        )
    return seen
