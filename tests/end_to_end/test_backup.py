"""A backup of a service under load, restored into the other kind of database: same jobs, curves, files."""

from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support.service import GRADQ, Service, assert_whole_curve

pytestmark = pytest.mark.long

SMALL: dict[str, Any] = {"architecture": "linear", "epochs": 1}
LONG: dict[str, Any] = {  # about 3 s of training on digits; slowed down while a backup is made
    "architecture": "mlp",
    "gradients": "manual",
    "batch_size": 4,
    "epochs": 80,
    "lr": 0.01,
    "seed": 5,
    "checkpoint": {"every_seconds": 0.3},
}
HELD_SECONDS, FREE_SECONDS = 0.5, 0.05


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def services(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """A service on one kind of database, and an empty place of the other kind."""
    pair = []
    for name, kind in (("here", "sqlite"), ("there", "postgresql")):
        (tmp_path / name).mkdir()
        url = {"GRADQ_DATABASE_URL": request.getfixturevalue("postgres").database()} if kind == "postgresql" else {}
        pair.append(Service(tmp_path / name, {"GRADQ_SLOTS": "2", **url}))
    here, there = pair if request.param == "sqlite" else pair[::-1]
    yield here.start(), there
    for service in pair:
        service.close()


class Load:
    """Submits jobs, one after the other, during the block."""

    def __init__(self, service: Service) -> None:
        self.service, self.stop, self.ids = service, threading.Event(), list[str]()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stop.wait(0.3):
            self.ids.append(self.service.submit(**SMALL)["id"])

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@contextmanager
def crawling(process: psutil.Process) -> Iterator[None]:
    """Suspend a process most of the time, so that it is running, and not done, during the whole block."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            process.suspend()
            over.wait(HELD_SECONDS)
            process.resume()
            over.wait(FREE_SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        process.resume()


def command(service: Service, *arguments: str) -> str:
    ended = subprocess.run([*GRADQ, *arguments], env=service.env, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def jobs_of(service: Service) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = service.http.get("/v1/jobs", params=query).json()
        found |= {job["id"]: job for job in page["data"]}
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


def upload(service: Service) -> dict[str, Any]:
    file = io.BytesIO()
    np.savez(file, x=np.random.default_rng(0).integers(0, 255, (60, 6, 6)).astype(np.uint8), y=np.arange(60) % 2)
    dataset: dict[str, Any] = service.http.post("/v1/datasets", files={"file": ("flat.npz", file.getvalue())}).json()
    return dataset


def test_a_backup_under_load_is_restored_elsewhere_and_every_job_continues(
    services: tuple[Service, Service], tmp_path: Path
) -> None:
    here, there = services
    dataset = upload(here)
    done = here.wait(here.submit(**SMALL, dataset=dataset["id"])["id"])
    long = here.submit(**LONG)["id"]
    here.wait_for_checkpoint(long)
    with crawling(here.trainer(long)), Load(here) as load:
        said = command(here, "backup", str(tmp_path / "gradq.tar"))
        assert here.job(long)["status"] == "running"
    assert "1 dataset" in said
    assert load.ids

    command(there, "restore", str(tmp_path / "gradq.tar"))
    there.migrate()
    there.start_broker()
    there.start_api()
    restored = jobs_of(there)
    assert {done["id"], long} <= restored.keys() <= jobs_of(here).keys()
    assert there.http.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    for job_id, job in restored.items():
        assert_same(here, there, job_id, terminal=job["terminal"])
    assert restored[long]["status"] == "queued"
    assert restored[long]["attempts"][0]["outcome"] == "drained"

    there.start_worker()
    for job_id in restored:
        assert there.wait(job_id, 90)["status"] == "succeeded"
    undisturbed, resumed = here.wait(long, 90), there.job(long)
    assert (undisturbed["attempt"], resumed["attempt"]) == (1, 2)
    assert resumed["attempts"][1]["resumed_from_step"] > 0
    assert resumed["result"]["weights_sha256"] == undisturbed["result"]["weights_sha256"]
    assert resumed["result"]["data_order_sha256"] == undisturbed["result"]["data_order_sha256"]
    assert_whole_curve(there, resumed)


def files_of(service: Service, job_id: str) -> dict[str, dict[str, object]]:
    """By name; of pictures without the time, since each service draws those that were not drawn at the backup."""
    found = service.artifacts(job_id)
    return {name: {**file, "created_at": None} if file["kind"] == "plot" else file for name, file in found.items()}


def assert_same(here: Service, there: Service, job_id: str, terminal: bool) -> None:
    """An ended job is the same in every response; of another job, the log up to the backup."""
    if not terminal:
        events = [event for event in there.events(job_id) if "restored from the backup" not in event["message"]]
        assert events == here.events(job_id)[: len(events)]
        return
    assert there.job(job_id) == here.job(job_id)
    assert there.events(job_id) == here.events(job_id)
    assert there.series(job_id) == here.series(job_id)
    assert files_of(there, job_id) == files_of(here, job_id)
    for name in here.artifacts(job_id):
        address = f"/v1/jobs/{job_id}/artifacts/{name}"
        assert there.http.get(address).content == here.http.get(address).content, address
