"""Processes die during a job: it resumes from its last checkpoint, ends once, and has the same weights."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import psutil
import pytest
from support.service import Service, assert_whole_curve
from support.waiting import wait_for

pytestmark = pytest.mark.long

# of an attempt whose worker is gone; the second, which is not counted, if the other worker had no time for seconds
LOST = ("worker_lost", "database_away")

# about 3 s of training on digits, a checkpoint every 0.3 s
LONG: dict[str, Any] = {
    "architecture": "mlp",
    "gradients": "manual",
    "batch_size": 4,
    "epochs": 70,
    "lr": 0.01,
    "seed": 5,
    "checkpoint": {"every_seconds": 0.3},
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the same job without service and faults, which every interrupted run must have."""
    import json

    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "spec.json").write_text(json.dumps({**LONG, "checkpoint": {"every_seconds": None}}))
    code = (
        "import json, sys; from pathlib import Path; from shared.spec.job_spec import JobSpec;"
        "from worker.trainer.job import run_job; from worker.trainer.run import Run;"
        "spec = JobSpec.parse(json.loads(Path(sys.argv[1], 'spec.json').read_text()));"
        "print(json.dumps(run_job(spec, Run(Path(sys.argv[1])), lambda e: None, data_dir=Path('x'), download=False,"
        " threads=1)))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def assert_resumed(service: Service, job_id: str, unbroken: dict[str, Any], attempts: int = 2) -> dict[str, Any]:
    job = service.wait(job_id)
    assert job["status"] == "succeeded", job["status_reason"]
    assert job["attempt"] == attempts
    assert job["attempts"][-1]["resumed_from_step"] > 0
    assert job["result"]["weights_sha256"] == unbroken["weights_sha256"]
    assert job["result"]["data_order_sha256"] == unbroken["data_order_sha256"]
    assert_whole_curve(service, job)
    assert sum(e["data"]["status"] == "succeeded" for e in service.events(job_id, "status")) == 1
    return job


def test_killed_trainer_resumes_with_the_same_weights(steady: Service, unbroken: dict[str, Any]) -> None:
    job = steady.submit(**LONG)
    steady.wait_for_checkpoint(job["id"])
    steady.trainer(job["id"]).kill()
    ended = assert_resumed(steady, job["id"], unbroken)
    assert [a["outcome"] for a in ended["attempts"]] == ["trainer_died", "succeeded"]


def is_alive(process: psutil.Process) -> bool:
    """False for a zombie, which its parent has not reaped yet."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_killed_worker_leaves_no_orphan_and_its_job_resumes(service: Service, unbroken: dict[str, Any]) -> None:
    worker = service.worker
    job = service.submit(**LONG)
    service.wait_for_checkpoint(job["id"])
    family = [*worker.family(), service.trainer(job["id"])]
    worker.kill()
    wait_for(lambda: not [p for p in family if is_alive(p)], 30, "the end of the worker's processes")
    service.start_worker()
    assert_resumed(service, job["id"], unbroken)
    wait_for(lambda: not list((service.state / "runs").iterdir()), 30, "the end of the run folders")


def test_another_worker_takes_over_from_a_killed_one(service: Service, unbroken: dict[str, Any]) -> None:
    service.start_worker()
    job = service.submit(**LONG)
    service.wait_for_checkpoint(job["id"])
    running = service.job(job["id"])["attempts"][0]["worker"]
    victim = next(w for w in service.live_workers() if w["id"] == running)
    psutil.Process(victim["pid"]).kill()
    ended = assert_resumed(service, job["id"], unbroken)  # how soon: tests/faults/test_takeover.py
    assert [a["outcome"] in LOST for a in ended["attempts"]] == [True, False]
    assert ended["attempts"][1]["worker"] != running


def test_killed_trainer_and_worker_together(service: Service, unbroken: dict[str, Any]) -> None:
    job = service.submit(**LONG)
    service.wait_for_checkpoint(job["id"])
    trainer = service.trainer(job["id"])
    service.worker.kill()
    trainer.kill()
    service.start_worker()
    assert_resumed(service, job["id"], unbroken)


def test_the_running_job_survives_a_killed_trainer_server(steady: Service, unbroken: dict[str, Any]) -> None:
    job = steady.submit(**LONG)
    steady.wait_for_checkpoint(job["id"])
    steady.trainer(job["id"]).parent().kill()
    ended = steady.wait(job["id"])
    assert ended["status"] == "succeeded"
    assert ended["attempt"] == 1
    assert ended["result"]["weights_sha256"] == unbroken["weights_sha256"]
    after = steady.wait(steady.submit(epochs=1)["id"])
    assert after["status"] == "succeeded", "the worker did not start another trainer server"


def test_a_suspended_worker_writes_nothing_when_it_is_resumed(service: Service, unbroken: dict[str, Any]) -> None:
    service.start_worker()
    job = service.submit(**LONG)
    service.wait_for_checkpoint(job["id"])
    running = service.job(job["id"])["attempts"][0]["worker"]
    stale = psutil.Process(next(w["pid"] for w in service.live_workers() if w["id"] == running))
    old_trainer = service.trainer(job["id"])
    suspend_between_writes(service, stale)
    old_trainer.suspend()  # otherwise it could finish: the pipe holds all of its events
    try:
        service.wait_until(job["id"], lambda j: j["attempt"] == 2, 20, "the second attempt")
    finally:
        stale.resume()
        old_trainer.resume()
    wait_for(lambda: not old_trainer.is_running(), 30, "the end of the stale trainer")
    ended = assert_resumed(service, job["id"], unbroken)
    assert [a["outcome"] in LOST for a in ended["attempts"]] == [True, False]
    assert not [
        e for e in service.events(job["id"]) if e["attempt"] == 1 and e["seq"] > _seq_of_attempt_2(service, job)
    ]


def suspend_between_writes(service: Service, process: psutil.Process) -> None:
    """Suspend a process that does not hold SQLite's lock: suspended with the lock, it would block all others."""
    database = service.state / "gradq.db"

    def suspended() -> bool:
        process.suspend()
        try:
            with closing(sqlite3.connect(database, timeout=0.5, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            process.resume()
            return False
        return True

    wait_for(suspended, 20, "a moment in which the worker does not write")


def _seq_of_attempt_2(service: Service, job: dict[str, Any]) -> int:
    return min(e["seq"] for e in service.events(job["id"]) if e["attempt"] == 2)


def test_a_drained_worker_releases_its_job_and_it_costs_no_attempt(service: Service, unbroken: dict[str, Any]) -> None:
    job = service.submit(**LONG, max_attempts=1)
    service.wait_for_checkpoint(job["id"])
    worker = service.worker
    worker.send(signal.SIGTERM)
    worker.process.wait(20)
    queued = service.job(job["id"])
    assert queued["status"] == "queued"
    assert queued["queue"]["reason"]["code"] == "no_live_worker"
    assert queued["attempts"][0]["outcome"] == "drained"
    service.start_worker()
    assert_resumed(service, job["id"], unbroken)


def test_a_job_that_kills_its_trainer_each_time_fails_after_max_attempts(steady: Service) -> None:
    job = steady.submit(**LONG, max_attempts=2)
    for attempt in (1, 2):
        steady.trainer(job["id"], attempt).kill()
    ended = steady.wait(job["id"])
    assert ended["status"] == "failed"
    assert ended["status_reason"]["code"] == "too_many_attempts"
    assert ended["attempt"] == 2


def test_a_message_delivered_three_times_trains_once(steady: Service) -> None:
    from shared.broker import Broker

    broker = Broker(steady.env["GRADQ_REDIS_URL"])
    job = steady.submit(epochs=3)
    assert all(broker.ring() for _ in range(3))
    ended = steady.wait(job["id"])
    assert ended["attempt"] == 1
    assert sum(e["message"] == "trainer started" for e in steady.events(job["id"], "log")) == 1


def test_a_lost_message_loses_no_job(service: Service) -> None:
    from redis import Redis

    service.worker.stop()
    jobs = [service.submit(epochs=1) for _ in range(5)]
    with Redis(unix_socket_path=str(service.socket)) as redis:
        redis.flushall()
    service.start_worker()
    assert {service.wait(job["id"])["status"] for job in jobs} == {"succeeded"}


def test_with_the_broker_dead_jobs_are_taken_at_once_and_run(service: Service) -> None:
    assert service.broker is not None
    service.broker.kill()
    took, jobs = [], []
    for _ in range(3):
        sent = time.monotonic()
        jobs.append(service.submit(epochs=1))
        took.append(time.monotonic() - sent)
    assert min(took) < 1  # of three, since the machine may be busy
    for job in jobs:
        assert service.wait(job["id"])["status"] == "succeeded"  # the worker polls the database
    service.start_broker()
    assert service.wait(service.submit(epochs=1)["id"])["status"] == "succeeded"


def test_a_worker_that_starts_without_a_broker_works_and_drains(service: Service) -> None:
    assert service.broker is not None
    service.worker.stop()
    service.broker.kill()
    worker = service.start_worker()
    job = service.submit(**LONG)
    service.wait_for_checkpoint(job["id"])
    worker.stop()
    assert service.job(job["id"])["attempts"][0]["outcome"] == "drained"


def test_cancel_of_a_queued_job_is_final_at_once(steady: Service) -> None:
    blocker = steady.submit(**{**LONG, "epochs": 5000})
    steady.trainer(blocker["id"])
    job = steady.submit(epochs=1)
    assert steady.cancel(job["id"])["status"] == "cancelled"
    steady.cancel(blocker["id"])
    other = steady.wait(steady.submit(epochs=1)["id"])
    assert other["status"] == "succeeded"
    assert steady.job(job["id"])["attempt"] == 0


def test_cancel_while_training_keeps_the_last_checkpoint(steady: Service) -> None:
    job = steady.submit(**{**LONG, "epochs": 5000})
    steady.wait_for_checkpoint(job["id"])
    trainer = steady.trainer(job["id"])
    assert steady.cancel(job["id"])["status"] == "cancelling"
    ended = steady.wait(job["id"])
    assert ended["status"] == "cancelled"
    assert ended["status_reason"]["code"] == "cancelled_by_user"
    assert not trainer.is_running()
    checkpoints = [e["data"]["step"] for e in steady.events(job["id"], "checkpoint")]
    assert checkpoints[-1] >= steady.series(job["id"])["batch_loss"][-1][0], "none was written on the way out"
    assert (steady.state / "artifacts" / job["id"] / "checkpoints" / f"1-{checkpoints[-1]}.pt").is_file()


def test_a_trainer_that_does_not_stop_is_killed_after_the_grace_period(steady: Service) -> None:
    job = steady.submit(**{**LONG, "epochs": 5000})
    trainer = steady.trainer(job["id"])
    trainer.suspend()
    steady.cancel(job["id"])
    assert steady.wait(job["id"])["status"] == "cancelled"
    assert not trainer.is_running()


def test_a_job_over_its_deadline_fails_with_that_reason(steady: Service) -> None:
    job = steady.submit(**{**LONG, "epochs": 5000}, max_seconds=1)
    ended = steady.wait(job["id"])
    assert ended["status"] == "failed"
    assert ended["status_reason"]["code"] == "deadline_exceeded"


def test_a_diverging_job_fails_and_names_epoch_and_step(steady: Service) -> None:
    ended = steady.wait(steady.submit(architecture="mlp", lr=1e30, epochs=3)["id"])
    assert ended["status"] == "failed"
    assert ended["status_reason"]["code"] == "diverged"
    assert "epoch 1 at step" in ended["status_reason"]["detail"]


def test_the_worker_process_has_no_torch(steady: Service) -> None:
    """By the memory maps of the processes: the trainer server has torch's library, the worker does not."""
    steady.wait(steady.submit(epochs=1)["id"])
    worker = steady.worker
    assert not _maps_torch(worker.process.pid)
    assert any(_maps_torch(child.pid) for child in worker.handle.children(recursive=True))


def _maps_torch(pid: int) -> bool:
    with open(f"/proc/{pid}/maps") as maps:
        return any("libtorch" in line for line in maps)


if not os.path.isdir("/proc"):
    pytest.skip("reads /proc", allow_module_level=True)
