"""Fixtures for all tests: both databases, the real MNIST, settings in a temporary folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from sqlalchemy import make_url, text
from support.postgres import Postgres, part_missing, require_postgres

from shared.config import Settings
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.db.tables import Base

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported; four test processes share the cores
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# no deadline: a busy machine is not a bug. CI draws the same examples each time, other machines draw new ones
hypothesis.settings.register_profile("gradq", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("gradq")

# The log is configured here, so that no app configures it: loggers that an app has cached are out of reach of
# structlog.testing.capture_logs in later tests. A coloured traceback with its locals would also take almost a second.
structlog.configure(
    processors=[structlog.processors.JSONRenderer()],
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),  # standard output is what tests of the command line read
    cache_logger_on_first_use=False,
)


SLOW = (  # files that take seconds each, for processes, browsers, databases and models: `make quick` leaves them out
    *("tests/browser/", "tests/compose/", "tests/contract/", "tests/end_to_end/", "tests/faults/", "tests/fuzz/"),
    *("tests/gradq/backup/", "tests/packaging/"),
    *(
        f"tests/{name}.py"
        for name in (
            "api/changes/test_idempotency",
            "api/routes/test_bulk",
            "api/routes/test_predictions",
            "api/routes/test_prometheus",
            "api/test_reading",
            "api/test_same_pixels",
            "api/test_uploads",
            "api/waiting/test_streams",
            "api/waiting/test_waiting",
            "gradq/test_backup",
            "gradq/test_children",
            "gradq/test_client",
            "gradq/test_commands",
            "gradq/test_demo",
            "gradq/test_doctor",
            "gradq/test_idle_imports",
            "gradq/test_own_packages",
            "gradq/test_start",
            "gradq/test_steering",
            "gradq/test_up",
            "shared/db/test_database",
            "shared/db/test_migrate",
            "shared/test_s3_store",
            "shared/spec/test_estimate",
            "worker/test_imports",
            "worker/test_launcher",
            "worker/test_lease",
            "worker/trainer/data/test_memmap",
            "worker/trainer/exports/test_artifacts",
            "worker/trainer/exports/test_forms",
            "worker/trainer/nets/test_import_torchvision",
            "worker/trainer/nets/test_torchvision_nets",
            "worker/trainer/test_killed",
            "worker/trainer/test_process",
        )
    ),
)


def pytest_itemcollected(item: pytest.Item) -> None:
    if any(part in item.path.as_posix() for part in SLOW):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests for xdist, which gives each process an equal run of the list.

    Each process begins with its share of the slow files, and quick tests fill the rest of its run, so that no slow
    test starts last. Files of one folder share a service, which each process starts for itself: they are neighbours in
    the list, so that most go to the same process.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    among_slow = set(slow)
    quick = [item for item in items if item not in among_slow]
    files = sorted(dict.fromkeys(item.path for item in slow), key=lambda path: path.parent)
    order: list[pytest.Item] = []
    for worker in range(workers):
        share = (len(items) - len(order)) // (workers - worker)
        mine = files[len(files) * worker // workers : len(files) * (worker + 1) // workers]
        own = [item for item in slow if item.path in mine]
        fill = max(share - len(own), 0)
        order += own + quick[:fill]
        quick = quick[fill:]
    items[:] = order + quick


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with the four MNIST files that GRADQ_DATA_DIR names."""
    if "GRADQ_DATA_DIR" not in os.environ:
        part_missing("GRADQ_DATA_DIR, the folder with MNIST, is not set")
    folder = Path(os.environ["GRADQ_DATA_DIR"]).absolute()
    if missing := DATASETS["mnist"].missing_files(folder):
        part_missing(f"MNIST is incomplete: {missing[0]} is missing")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One private cluster for all tests; its `database()` creates a new database."""
    require_postgres()
    with Postgres() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> Iterator[Database]:
    """A PostgreSQL database with the newest schema; the fixture `database` empties it after each test."""
    database = Database(postgres.database())
    database.migrate()
    yield database
    database.close()


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Database]:
    """new_sqlite(url): an SQLite database with the newest schema and no rows, a copy of one that was migrated once."""
    model = tmp_path_factory.mktemp("schema") / "gradq.db"
    migrated = Database(f"sqlite:///{model}")
    migrated.migrate()
    migrated.close()

    def copied(url: str) -> Database:
        database = Database(url)
        if database.is_sqlite:  # a PostgreSQL database has its schema already, and its name is not a path
            shutil.copy(model, str(make_url(url).database))
        return database

    return copied


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def empty_database(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables, of each kind."""
    sqlite = database_kind == "sqlite"
    url = f"sqlite:///{tmp_path / 'gradq.db'}" if sqlite else request.getfixturevalue("postgres").database()
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def database(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the newest schema and no rows, of each kind."""
    if database_kind == "sqlite":
        database = request.getfixturevalue("new_sqlite")(f"sqlite:///{tmp_path / 'gradq.db'}")
        yield database
        database.close()
    else:
        database = request.getfixturevalue("migrated_postgres")
        yield database
        with database.write() as session:
            session.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)} CASCADE"))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Default settings, with a temporary state folder and without downloads of datasets."""
    for name in [name for name in os.environ if name.startswith("GRADQ_")]:
        monkeypatch.delenv(name)
    return Settings.from_env(state_dir=tmp_path / "state", download=False)
