"""Pictures that are drawn after their job has ended take their place among its files once, wherever they are drawn."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
from sqlalchemy.orm import Session
from support.drawings import DRAWING, PICTURES, finished, undrawn_row
from support.store import read, write
from support.waiting import wait_for

from shared.artifacts import ArtifactStore, artifact_key
from shared.db.database import Database
from shared.errors import NotFound
from shared.events import UNDRAWN
from shared.jobs import joblog, jobs, stored_bytes
from shared.pictures import files, undrawn
from worker.orphaned_files import remove_orphaned_files
from worker.store_sweep import StoreSweep


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def names(database: Database, job_id: str) -> list[str]:
    return [row.name for row in read(database, jobs.artifacts_of, job_id)]


def used(session: Session) -> int:
    return stored_bytes.used_by(session, None)["artifacts"]


def test_pictures_take_the_place_of_their_drawing_among_the_files(
    database: Database, store: ArtifactStore, tmp_path: Path
) -> None:
    job_id = finished(database, store, tmp_path).job_id
    assert names(database, job_id) == ["spec.json"]
    with pytest.raises(NotFound):
        read(database, jobs.artifact, job_id, UNDRAWN)
    lines = [line.message for line in read(database, joblog.events_of, job_id, joblog.EventFilter(types=("artifact",)))]
    assert lines == ["stored spec.json"]
    row = undrawn_row(database, job_id)
    assert undrawn.draw_and_store(database, store, row, files.draw)
    assert names(database, job_id) == sorted([*PICTURES, "spec.json"])
    assert read(database, undrawn.of_job, job_id) is None
    rows = read(database, jobs.artifacts_of, job_id)
    for each in rows:
        assert store.read_checked(each.key, each.sha256)
    assert sorted(store.keys_of(job_id)) == sorted(each.key for each in rows), "nothing else is left in the store"
    assert read(database, used) == sum(each.size_bytes for each in rows)
    assert {each.kind for each in rows} == {"plot", "spec"}


def test_of_two_that_draw_at_once_the_first_counts(database: Database, store: ArtifactStore, tmp_path: Path) -> None:
    job_id = finished(database, store, tmp_path).job_id
    row, both = undrawn_row(database, job_id), threading.Barrier(2, timeout=20)
    won: list[bool] = []

    def draw_another_way(source: Path, folder: Path) -> Sequence[Path]:
        drawn = files.draw(source, folder)
        drawn[0].write_bytes(threading.current_thread().name.encode())  # as with two versions of a library
        both.wait()
        return drawn

    def run() -> None:
        won.append(undrawn.draw_and_store(database, store, row, draw_another_way))

    threads = [threading.Thread(target=run, name=name) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(won) == [False, True]
    rows = read(database, jobs.artifacts_of, job_id)
    for each in rows:
        store.read_checked(each.key, each.sha256)
    assert sorted(store.keys_of(job_id)) == sorted(each.key for each in rows)


def test_a_job_that_is_deleted_meanwhile_stays_deleted(
    database: Database, store: ArtifactStore, tmp_path: Path
) -> None:
    job_id = finished(database, store, tmp_path).job_id

    def draw(source: Path, folder: Path) -> Sequence[Path]:
        write(database, jobs.remove, job_id)
        store.remove_folder(job_id)
        return files.draw(source, folder)

    assert not undrawn.draw_and_store(database, store, undrawn_row(database, job_id), draw)
    assert (names(database, job_id), store.keys_of(job_id)) == ([], [])


def test_a_deletion_and_the_rows_of_pictures_lock_in_one_order(
    database: Database, store: ArtifactStore, tmp_path: Path
) -> None:
    """The job's row first: in another order PostgreSQL would end one of them as a deadlock."""
    job_id = finished(database, store, tmp_path).job_id
    row, locked = undrawn_row(database, job_id), threading.Event()
    drawn: list[bool] = []

    def draw(source: Path, folder: Path) -> Sequence[Path]:
        assert locked.wait(20)
        return files.draw(source, folder)

    def run() -> None:
        drawn.append(undrawn.draw_and_store(database, store, row, draw))

    thread = threading.Thread(target=run)
    thread.start()
    with database.write() as session:
        jobs.lock_job(session, job_id)
        locked.set()
        wait_for(lambda: len(store.keys_of(job_id)) == 2 + len(PICTURES), 20, "the pictures in the store")
        jobs.remove(session, job_id)
    thread.join(60)
    assert drawn == [False]


def test_pictures_without_rows_are_no_orphans_while_they_are_being_drawn(
    database: Database, store: ArtifactStore, tmp_path: Path
) -> None:
    lease = finished(database, store, tmp_path)
    sweep = StoreSweep(database, store, SimpleQueue(), lambda: True, 60.0, 60.0)
    put = store.put

    def put_and_sweep(key: str, path: Path) -> object:
        stored = put(key, path)
        sweep.sweep()
        remove_orphaned_files(store, database, lease.job_id, lease.attempt)
        return stored

    store.put = put_and_sweep  # type: ignore[method-assign, assignment]
    assert undrawn.draw_and_store(database, store, undrawn_row(database, lease.job_id), files.draw)
    for each in read(database, jobs.artifacts_of, lease.job_id):
        store.read_checked(each.key, each.sha256)
    (stray := tmp_path / "stray").write_text("x")
    put(artifact_key(lease.job_id, lease.attempt, "stray"), stray)
    sweep.sweep()
    assert not store.has(artifact_key(lease.job_id, lease.attempt, "stray")), "a file without a row is one afterwards"


@pytest.mark.parametrize("damage", ["missing", "another content", "a label without a class"])
def test_a_drawing_that_cannot_be_used_is_said_to_be_none(
    database: Database, store: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    wrong = replace(DRAWING, predictions=replace(DRAWING.predictions, true=[0, 7]))  # of two classes
    drawing = wrong if damage == "a label without a class" else DRAWING
    job_id = finished(database, store, tmp_path, drawing).job_id
    row = undrawn_row(database, job_id)
    path = store.local_path(row.key)
    assert path is not None
    if damage == "missing":
        path.unlink()
    elif damage == "another content":
        path.write_bytes(b"another")
    if damage == "a label without a class":
        with pytest.raises(undrawn.NoDrawing):
            undrawn.draw_and_store(database, store, row, files.draw)
        assert read(database, undrawn.of_job, job_id) is not None, "another version of a library may draw it"
    else:
        assert undrawn.draw_and_store(database, store, row, files.draw)
        assert read(database, undrawn.of_job, job_id) is None
        assert not store.has(row.key)
    assert names(database, job_id) == ["spec.json"]


def test_a_job_whose_pictures_cannot_be_drawn_is_not_chosen_again(
    database: Database, store: ArtifactStore, tmp_path: Path
) -> None:
    ids = [finished(database, store, tmp_path).job_id for _ in range(2)]
    assert read(database, undrawn.among, [*ids, "job_other"]) == set(ids)
    for first, second in (ids, ids[::-1]):
        row = read(database, undrawn.one_of_the_newest, [first])
        assert row is not None
        assert row.job_id == second
    assert read(database, undrawn.one_of_the_newest, ids) is None
