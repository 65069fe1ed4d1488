"""A job that needs more memory than there is fails with that reason; its worker takes the next job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from support.memory import MemoryGroup
from support.service import Service

pytestmark = pytest.mark.long

MEGABYTE = 1 << 20
ADDRESSES = 2048 * MEGABYTE  # address space of a process
GROUP_BYTES = 1200 * MEGABYTE  # memory of a worker and all its trainers
WANTS_16_GIGABYTES: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [16_384] * 16}, "epochs": 1}
USES_2_GIGABYTES: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [16_000, 16_000]}, "epochs": 1}


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    try:
        group = MemoryGroup(GROUP_BYTES)
    except (OSError, KeyError) as error:
        pytest.skip(f"no control group can be created here: {error}")
    yield group
    group.remove()


def assert_fails_for_memory_and_the_worker_survives(service: Service, spec: dict[str, Any]) -> dict[str, Any]:
    worker = service.worker
    ended = service.wait(service.submit(**spec)["id"])
    assert ended["status"] == "failed"
    assert ended["status_reason"]["code"] == "out_of_memory_host", ended["status_reason"]
    assert ended["attempt"] == 1  # a retry would fail the same way
    assert service.wait(service.submit(epochs=1)["id"])["status"] == "succeeded"
    assert worker.alive
    return ended


def test_a_job_whose_allocation_fails_fails_with_that_reason(start_service: Callable[..., Service]) -> None:
    service = start_service(workers=0)
    service.start_worker(lambda process: process.rlimit(psutil.RLIMIT_AS, (ADDRESSES, ADDRESSES)))
    assert_fails_for_memory_and_the_worker_survives(service, WANTS_16_GIGABYTES)


def test_a_job_with_an_oom_kill_fails_with_that_reason(
    group: MemoryGroup, start_service: Callable[..., Service]
) -> None:
    service = start_service(workers=0)
    service.start_worker(group.add)
    ended = assert_fails_for_memory_and_the_worker_survives(service, USES_2_GIGABYTES)
    assert "kernel" in ended["status_reason"]["detail"]
    service.worker.stop()  # only an empty group can be removed
