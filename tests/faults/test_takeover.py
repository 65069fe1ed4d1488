"""How long a killed worker's job waits for another worker, with default settings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.service import Service
from support.waiting import wait_for

from shared.config import Settings

DEFAULT = Settings.model_fields
PROMISED_SECONDS = DEFAULT["lease_seconds"].default + 3
TRIES = 3  # a busy machine may spoil a try
LONG: dict[str, Any] = {"batch_size": 4, "epochs": 10_000, "checkpoint": {"every_seconds": 0.5}}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    names = ("lease_seconds", "reconcile_seconds", "grace_seconds")
    service = Service(tmp_path, {f"GRADQ_{name.upper()}": str(DEFAULT[name].default) for name in names})
    yield service.start(workers=2)
    service.close()


@pytest.mark.long
def test_the_next_attempt_trains_within_a_lease_and_three_seconds(service: Service) -> None:
    took = [seconds_to_take_over(service)]
    while took[-1] > PROMISED_SECONDS and len(took) < TRIES:
        service.start_worker()
        took.append(seconds_to_take_over(service))
    print(f"took {took} s")
    assert took[-1] <= PROMISED_SECONDS


def seconds_to_take_over(service: Service) -> float:
    """Seconds from the kill of the worker that trains to the first step on the other worker."""
    job = service.submit(**LONG)
    service.wait_for_checkpoint(job["id"])
    running = service.job(job["id"])["attempts"][0]["worker"]
    victim = psutil.Process(next(w["pid"] for w in service.live_workers() if w["id"] == running))
    killed = time.monotonic()
    victim.kill()

    def has_stepped() -> bool:
        lines = [event for event in service.events(job["id"]) if event["attempt"] == 2]
        return any(event["type"] in ("metric", "checkpoint") for event in lines)

    wait_for(has_stepped, 60, "the second attempt's first steps")
    took = time.monotonic() - killed
    service.cancel(job["id"])
    assert service.wait(job["id"])["status"] == "cancelled"
    return took
