from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.compose import Composed, require_parts


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The services of docker-compose.yml, not started yet, with short leases set as in a .env, for short tests."""
    require_parts()
    folder: Path = tmp_path_factory.mktemp("compose")
    variables = {
        "GRADQ_LEASE_SECONDS": "4",
        "GRADQ_RECONCILE_SECONDS": "0.5",
        "GRADQ_SLOTS": "1",
        "GRADQ_THREADS_PER_SLOT": "1",
        "GRADQ_DOWNLOAD": "false",
    }
    services = Composed(folder, variables)
    yield services
    services.close()
