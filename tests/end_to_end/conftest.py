from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.api_alone import Api
from support.service import Service


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """start_service(workers=1, GRADQ_X="…"): a private service; stopped at the end; orphaned processes are an error."""
    services: list[Service] = []

    def start(workers: int = 1, **environment: str) -> Service:
        services.append(Service(tmp_path, environment))
        return services[-1].start(workers)

    yield start
    for service in services:
        service.close()


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that do not stop or add processes."""
    service = Service(tmp_path_factory.mktemp("steady")).start()
    yield service
    service.close()


@pytest.fixture
def service(steady: Service) -> Iterator[Service]:
    """The same service, for a test that stops or adds processes; restored afterwards."""
    yield steady
    steady.mend()


@pytest.fixture
def start_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    started: list[Api] = []

    def start(*arguments: str, **environment: str) -> Api:
        started.append(
            Api(tmp_path, *arguments, GRADQ_REDIS_URL=f"redis+socket://{tmp_path}/nobody.sock", **environment)
        )
        return started[-1]

    yield start
    for api in started:
        api.close()
