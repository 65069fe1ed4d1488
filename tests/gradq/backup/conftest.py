"""Places to make backups of and to restore them into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support.place import Place, sqlite_place_in

from shared.artifacts import ArtifactStore
from shared.db.database import Database


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    """A service, empty, on either database."""
    (tmp_path / "work").mkdir()
    return Place(database, ArtifactStore(f"file://{tmp_path / 'artifacts'}"), tmp_path / "work")


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[Place]:
    """A service, empty, on SQLite: where the kind of database makes no difference."""
    (tmp_path / "here").mkdir()
    with sqlite_place_in(tmp_path / "here") as place:
        place.database.migrate()
        yield place


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Place]:
    """An empty place with SQLite, which nothing has been at yet."""
    (tmp_path / "there").mkdir()
    with sqlite_place_in(tmp_path / "there") as place:
        yield place


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def other_target(request: pytest.FixtureRequest, target: Place) -> Iterator[Place]:
    """An empty place with either database, and files in memory."""
    store = ArtifactStore(f"memory://{uuid4().hex}")
    if request.param == "sqlite":
        yield Place(target.database, store, target.folder)
    else:
        database = Database(request.getfixturevalue("postgres").database())
        yield Place(database, store, target.folder)
        database.close()
    if store.fs.exists(store.root):
        store.fs.rm(store.root, recursive=True)
