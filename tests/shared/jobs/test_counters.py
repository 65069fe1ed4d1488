"""Counters on both databases: they grow with what happens, outlive what they count, and stay few rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from support.store import claim, claim_again, read, running, submit, write
from support.store import stored as stored_file

from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.db.tables import ArtifactRow, CheckpointRow, DatasetRow, Tally
from shared.jobs import counters, jobs, queue
from shared.jobs.states import JobState


def ended(database: Database) -> dict[str, int]:
    return {label: found.count for label, found in read(database, counters.read).get(counters.ENDED, {}).items()}


def stored(database: Database) -> dict[str, float]:
    return {label: found.total for label, found in read(database, counters.read).get(counters.STORED, {}).items()}


def rows(database: Database) -> int:
    return read(database, lambda session: session.scalar(select(func.count()).select_from(Tally)))


def bytes_in(database: Database, table: Any) -> float:
    return read(database, lambda session: float(session.scalar(select(func.sum(table.size_bytes))) or 0))


def test_every_end_counts_once_by_state_and_reason(database: Database) -> None:
    write(database, queue.finish, running(database), JobState.SUCCEEDED, "done", result={"training_seconds": 2.5})
    write(database, queue.finish, running(database), JobState.FAILED, "lost", {"code": "diverged", "detail": "nan"})
    write(database, jobs.request_cancel, waiting := submit(database))
    write(database, jobs.request_cancel, waiting)
    assert ended(database) == {"succeeded/": 1, "failed/diverged": 1, "cancelled/cancelled_by_user": 1}
    assert read(database, counters.read)[counters.TRAINED] == {"3": counters.Sum(1, 2.5)}


def test_an_attempt_that_is_lost_ends_no_job(database: Database) -> None:
    lease = running(database, max_attempts=2)
    write(database, queue.mark_lost, lease, "its worker is gone")
    assert ended(database) == {}
    write(database, queue.mark_lost, claim_again(database, lease.job_id), "its worker is gone")
    assert ended(database) == {"failed/too_many_attempts": 1}


def test_a_job_waited_until_its_first_attempt_alone(database: Database) -> None:
    lease = running(database)
    write(database, queue.release, lease, "drained")
    assert claim(database) is not None
    waited = read(database, counters.read)[counters.WAITED]
    assert sum(found.count for found in waited.values()) == 1


def test_counters_do_not_go_back_when_jobs_are_deleted(database: Database) -> None:
    lease = running(database)
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done", files=[stored_file("a", 700)])
    before = ended(database)
    write(database, jobs.remove, lease.job_id)
    assert ended(database) == before
    assert stored(database) == {"artifacts": 0}


def test_the_bytes_stored_are_those_of_the_rows(database: Database) -> None:
    lease = running(database)
    for step in (1, 2, 3):
        file = stored_file("checkpoint", 100 * step, key=f"c{step}")
        write(database, queue.add_checkpoint, lease, file, step, epoch=1, keep_last=2)
    write(database, queue.add_checkpoint, lease, stored_file("checkpoint", 50, key="again"), 3, epoch=1, keep_last=2)
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done", files=[stored_file("a", 700), stored_file("b", 7)])
    info, files = DATASETS["digits"], [stored_file("x.npy", 11)]
    for _ in range(2):
        write(database, dataset_store.add, "ds_0", info, "0" * 64, {}, "datasets/ds_0", files)
    expected = {"artifacts": ArtifactRow, "checkpoints": CheckpointRow, "datasets": DatasetRow}
    assert stored(database) == {kind: bytes_in(database, table) for kind, table in expected.items()}
    assert stored(database)["checkpoints"] == 250
    write(database, dataset_store.remove, "ds_0")
    write(database, jobs.remove, lease.job_id)
    assert set(stored(database).values()) == {0}


def test_many_rows_are_folded_into_one_a_label_and_sums_stay(database: Database) -> None:
    def many(session):
        for i in range(150):
            counters.job_ended(session, "succeeded", None, {"training_seconds": i / 8})

    write(database, many)
    before = read(database, counters.read)
    write(database, counters.fold)
    assert read(database, counters.read) == before
    assert rows(database) == sum(len(labels) for labels in before.values())
    write(database, counters.fold)
    assert read(database, counters.read) == before


def test_a_fold_beside_writers_loses_nothing(database: Database) -> None:
    def end(_: int) -> None:
        for _ in range(20):
            write(database, counters.job_ended, "failed", "diverged", None)

    def fold(_: int) -> None:
        for _ in range(20):
            write(database, counters.fold)

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(work, i) for i, work in enumerate([end] * 12 + [fold] * 3)]:
            done.result()
    assert ended(database) == {"failed/diverged": 240}


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, "0.1"), (0.1, "0.1"), (0.11, "0.3"), (86_400, "86400"), (1e9, "+Inf")]
)
def test_an_observation_falls_into_the_first_bucket_that_holds_it(
    database: Database, seconds: float, bucket: str
) -> None:
    write(database, counters.job_started, seconds)
    assert read(database, counters.read)[counters.WAITED] == {bucket: counters.Sum(1, seconds)}
