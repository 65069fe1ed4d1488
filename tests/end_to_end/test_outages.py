"""Store, disk and database are away or full for a while: no attempt is lost, no file remains, all goes on by itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.disk import SmallDisk, why_no_disks
from support.postgres import Postgres, part_missing
from support.proxy import Cable, to_port
from support.s3 import S3
from support.service import PATIENCE, Service, assert_whole_curve
from support.waiting import wait_for

from shared.artifacts import ArtifactStore

pytestmark = pytest.mark.long

LONG: dict[str, Any] = {
    **{"architecture": "mlp", "gradients": "manual", "batch_size": 4, "epochs": 150, "lr": 0.01, "seed": 5},
    **{"max_attempts": 1, "checkpoint": {"every_seconds": 0.3}},
}


@pytest.fixture
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture
def with_s3(s3: S3, tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, s3.environment)
    yield service.start()
    s3.faults()
    s3.cable.mend()
    service.close()


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """The service's store, reached without the cable that a test cuts."""
    for name, value in {**s3.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3.port}"}.items():
        monkeypatch.setenv(name, value)
    return ArtifactStore(s3.url)


def keys(service: Service, store: ArtifactStore, job_id: str) -> set[str]:
    return set(store.keys_of(job_id))


def reason(service: Service, job_id: str) -> str | None:
    queue = service.job(job_id)["queue"]
    return queue and queue["reason"]["code"]


def test_a_store_that_is_away_for_a_while_costs_no_attempt(with_s3: Service, s3: S3, store: ArtifactStore) -> None:
    service = with_s3
    ended = service.wait(service.submit(epochs=1)["id"])
    assert keys(service, store, ended["id"])
    undisturbed = service.wait(service.submit(**LONG)["id"])
    job = service.submit(**LONG)
    service.wait_for_checkpoint(job["id"])
    waiting = service.submit(epochs=1, max_attempts=1)
    s3.cable.refuse()
    wait_for(
        lambda: [e for e in service.events(job["id"]) if "could not be stored" in e["message"]], 60, "the first failure"
    )
    wait_for(lambda: reason(service, waiting["id"]) == "store_unavailable", 60, "the reason to wait")
    for path in (f"{ended['links']['artifacts']}/spec.json", ended["links"]["artifacts_zip"]):
        answer = service.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert service.http.delete(ended["links"]["self"]).json()["freed_bytes"] == 0
    wait_for(  # the training ends, and its results wait
        lambda: [e for e in service.events(job["id"]) if "wait for the artifact store" in e["message"]], 120, "the end"
    )
    assert service.job(job["id"])["status"] == "running"
    s3.cable.mend()
    for each in (job, waiting):
        done = service.wait(each["id"])
        assert (done["status"], done["attempt"]) == ("succeeded", 1), done["status_reason"]
    assert service.job(job["id"])["result"]["weights_sha256"] == undisturbed["result"]["weights_sha256"]
    assert_whole_curve(service, service.job(job["id"]))
    wait_for(lambda: not keys(service, store, ended["id"]), PATIENCE, "the removal of the deleted job's files")
    names = {f"{job['id']}/1/{name}" for name in service.artifacts(job["id"])}
    stored = {key for key in keys(service, store, job["id"]) if "/checkpoints/" not in key}
    assert {re.sub(r"/[0-9a-f]{16}-", "/", key) for key in stored} == names  # the keys of pictures have their hashes


def test_a_full_store_costs_no_job_an_attempt(with_s3: Service, s3: S3) -> None:
    s3.faults(full=True)
    jobs = [with_s3.submit(epochs=1, max_attempts=1) for _ in range(6)]
    wait_for(lambda: reason(with_s3, jobs[-1]["id"]) == "store_unavailable", 60, "the reason to wait")
    until = time.monotonic() + 8  # as long as three attempts and their backoffs took before
    wait_for(lambda: time.monotonic() > until, 30, "a longer outage")
    assert {with_s3.job(job["id"])["status"] for job in jobs} <= {"running", "queued"}
    s3.faults()
    for job in jobs:
        done = with_s3.wait(job["id"])
        assert (done["status"], done["attempt"]) == ("succeeded", 1), done["status_reason"]


def test_a_cancel_is_heeded_while_a_checkpoint_takes_half_a_minute_to_store(with_s3: Service, s3: S3) -> None:
    s3.faults(write_seconds=30)
    job = with_s3.submit(**{**LONG, "epochs": 10_000})
    trainer = with_s3.trainer(job["id"])
    run = with_s3.state / "runs" / f"{job['id']}-1" / "checkpoints"
    wait_for(lambda: list(run.glob("*.pt")), 60, "a checkpoint on its way")
    written = {path.name for path in run.glob("*.pt")}
    asked = time.monotonic()
    with_s3.cancel(job["id"])
    wait_for(lambda: not trainer.is_running(), 20, "the end of the trainer")
    ended = with_s3.wait(job["id"])
    assert ended["status"] == "cancelled"
    assert time.monotonic() - asked < 25, "it waited for the store"
    assert len(written) <= 2, "checkpoints queue up"


@pytest.mark.parametrize("moment", ["fetch", "store"])
def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_silent_store(
    with_s3: Service, s3: S3, store: ArtifactStore, moment: str
) -> None:
    """Nor does a job that is cancelled; the job of the worker is handed back, and is not lost."""
    origin = with_s3.wait(with_s3.submit(epochs=1)["id"])
    if moment == "fetch":
        s3.cable.cut()
    else:
        s3.faults(write_seconds=120)
    body: dict[str, Any] = {"epochs": 1, "max_attempts": 1, "init_from": {"job": origin["id"]}}

    def waits_for_the_store() -> bool:
        run = with_s3.state / "runs" / f"{job['id']}-1"
        if moment == "fetch":
            return run.is_dir()
        no_trainer = len(with_s3.worker.handle.children(recursive=True)) == 2  # its server and the resource tracker
        return no_trainer and (run / "artifacts").is_dir()

    job = with_s3.submit(**body)
    wait_for(waits_for_the_store, 60, "the transfer")
    with_s3.cancel(job["id"])
    asked = time.monotonic()
    assert with_s3.wait(job["id"])["status"] == "cancelled"
    assert time.monotonic() - asked < 20, "it waited for the store"
    s3.faults()
    s3.cable.mend(reset=True)
    wait_for(lambda: with_s3.live_workers()[0]["free_slots"] == 1, PATIENCE, "the slot")
    if moment == "fetch":
        s3.cable.cut()
    else:
        s3.faults(write_seconds=120)
    job = with_s3.submit(**body)
    wait_for(waits_for_the_store, 60, "the transfer")
    with_s3.worker.stop(seconds=25)
    (attempt,) = with_s3.job(job["id"])["attempts"]
    assert (with_s3.job(job["id"])["status"], attempt["outcome"]) == ("queued", "drained")
    s3.faults()
    s3.cable.mend(reset=True)
    with_s3.start_worker()
    assert with_s3.wait(job["id"])["status"] == "succeeded"


def test_a_small_full_disk_of_the_store_costs_no_job_an_attempt(tmp_path: Path) -> None:
    if (why := why_no_disks()) is not None:
        part_missing(why)
    disk = SmallDisk(tmp_path / "small", 4)
    service = Service(tmp_path / "service", {"GRADQ_ARTIFACTS_URL": f"file://{disk.path}/store"})
    service.folder.mkdir()
    try:
        service.start()
        disk.fill()
        jobs = [service.submit(epochs=1, max_attempts=1) for _ in range(3)]
        wait_for(lambda: reason(service, jobs[-1]["id"]) == "store_unavailable", 60, "the reason to wait")
        disk.free()
        for job in jobs:
            done = service.wait(job["id"])
            assert (done["status"], done["attempt"]) == ("succeeded", 1), done["status_reason"]
    finally:
        disk.free()
        service.close()
        disk.unmount()


def test_a_database_that_is_away_for_longer_than_a_lease_costs_no_attempt(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.database()
    cable = Cable(to_port(postgres.port))
    service = Service(tmp_path, {"GRADQ_DATABASE_URL": url.replace(f":{postgres.port}/", f":{cable.port}/")})
    try:
        service.start()
        longer = {**LONG, "epochs": 500}
        undisturbed = service.wait(service.submit(**longer)["id"])
        job = service.submit(**longer)
        trainer = service.trainer(job["id"])
        service.wait_for_checkpoint(job["id"])
        cable.refuse()
        assert service.http.get(f"/v1/jobs/{job['id']}").status_code == 503
        until = time.monotonic() + 1.5 * float(service.env["GRADQ_LEASE_SECONDS"])
        wait_for(lambda: time.monotonic() > until, 60, "a lease and a half")
        assert trainer.is_running(), "the job was given up"
        cable.mend()
        done = service.wait(job["id"])
        assert (done["status"], done["attempt"]) == ("succeeded", 1), done["attempts"]
        assert done["result"]["weights_sha256"] == undisturbed["result"]["weights_sha256"]
        assert_whole_curve(service, done)
    finally:
        cable.mend()
        service.close()
        cable.close()
