"""A job that wants more memory than there is fails and says so; its worker lives, and takes the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from support.memory import MemoryGroup
from support.service import Service

pytestmark = pytest.mark.long

MEGABYTE = 1 << 20
ADDRESSES = 2048 * MEGABYTE  # what a process may ask for
GROUP_BYTES = 1200 * MEGABYTE  # what a worker and all its trainers may use
WANTS_16_GIGABYTES: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [16_384] * 16}, "epochs": 1}
USES_2_GIGABYTES: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [16_000, 16_000]}, "epochs": 1}


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    try:
        group = MemoryGroup(GROUP_BYTES)
    except (OSError, KeyError) as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.remove()


def assert_fails_for_memory_and_the_worker_lives(service: Service, spec: dict[str, Any]) -> dict[str, Any]:
    worker = service.worker
    ended = service.wait(service.submit(**spec)["id"])
    assert ended["status"] == "failed"
    assert ended["status_reason"]["code"] == "out_of_memory_host", ended["status_reason"]
    assert ended["attempt"] == 1  # it would only do so again
    assert service.wait(service.submit(epochs=1)["id"])["status"] == "succeeded"
    assert worker.alive
    return ended


def test_a_job_that_asks_for_more_than_there_is_fails_with_that_reason(start_service: Callable[..., Service]) -> None:
    service = start_service(workers=0)
    service.start_worker(lambda process: process.rlimit(psutil.RLIMIT_AS, (ADDRESSES, ADDRESSES)))
    assert_fails_for_memory_and_the_worker_lives(service, WANTS_16_GIGABYTES)


def test_a_job_that_the_kernel_kills_for_its_memory_fails_with_that_reason(
    group: MemoryGroup, start_service: Callable[..., Service]
) -> None:
    service = start_service(workers=0)
    service.start_worker(group.add)
    ended = assert_fails_for_memory_and_the_worker_lives(service, USES_2_GIGABYTES)
    assert "kernel" in ended["status_reason"]["detail"]
    service.worker.stop()  # the group must be empty to go
