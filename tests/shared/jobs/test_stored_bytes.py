"""Bytes stored per owner, on both databases: each change is counted in its transaction, and the limit refuses more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, select, text
from support.store import claim, read, stored, write

from shared import audit
from shared.audit import Actor
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.db.tables import StoredBytes
from shared.errors import OwnerStorageFull
from shared.jobs import jobs, queue, stored_bytes
from shared.jobs.joblog import Line, now
from shared.jobs.queue import Lease
from shared.jobs.states import JobState
from shared.jobs.stored_bytes import AUDIT_BYTES, JOB_BYTES, LINE_BYTES, LINE_TEXT
from shared.spec.job_spec import JobSpec


def used(database: Database, owner: str | None) -> dict[str, int]:
    """What the owner stores, without kinds of which there is nothing."""
    return {kind: size for kind, size in read(database, stored_bytes.used_by, owner).items() if size}


def submit(database: Database, owner: str | None, **fields: Any) -> str:
    return write(database, jobs.create, JobSpec.parse(fields), owner=owner).id


def running(database: Database, owner: str | None) -> Lease:
    submit(database, owner)
    job = claim(database)
    assert job is not None
    return queue.lease_of(job)


def ended(database: Database, owner: str | None, *sizes: int) -> str:
    """A succeeded job with files of these sizes."""
    lease = running(database, owner)
    files = [stored(f"{i}.json", size) for i, size in enumerate(sizes)]
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done", files=files)
    return lease.job_id


def log_of(database: Database, *job_ids: str) -> int:
    """The bytes counted for the rows and logs of these jobs."""
    return sum(JOB_BYTES + LINE_BYTES * read(database, jobs.get, job_id).last_seq for job_id in job_ids)


def dataset(database: Database, dataset_id: str, size: int, owner: str) -> None:
    files = [stored("images.npy", size)]
    write(database, dataset_store.add, dataset_id, DATASETS["digits"], "0" * 64, {}, dataset_id, files, owner)


@pytest.mark.parametrize("owner", ["alice", None])
def test_artifacts_count_for_the_job_s_owner_until_the_job_is_deleted(database: Database, owner: str | None) -> None:
    job_id = ended(database, owner, 70, 30)
    ended(database, "bob", 7)
    assert used(database, owner) == {"artifacts": 100, "logs": log_of(database, job_id)}
    assert used(database, "bob")["artifacts"] == 7
    write(database, jobs.remove, job_id)
    assert used(database, owner) == {}
    assert used(database, "bob")["artifacts"] == 7


def test_checkpoints_count_less_those_that_they_replace(database: Database) -> None:
    lease = running(database, "alice")
    for step, size in ((1, 10), (2, 20), (3, 30), (3, 33)):
        write(database, queue.add_checkpoint, lease, stored(size=size, key=f"{step}{size}"), step, 1, 2)
    assert used(database, "alice")["checkpoints"] == 20 + 33
    write(database, queue.finish, lease, JobState.FAILED, "lost", {"code": "diverged", "detail": "nan"})
    write(database, jobs.remove, lease.job_id)
    assert used(database, "alice") == {}


def test_a_dataset_counts_for_each_owner_who_uploaded_it(database: Database) -> None:
    dataset(database, "ds_1", 500, "alice")
    assert write(database, dataset_store.take, "ds_1", "bob", "cats") is True
    assert write(database, dataset_store.take, "ds_1", "bob", "cats") is False
    assert used(database, "alice") == used(database, "bob") == {"datasets": 500}
    write(database, dataset_store.remove, "ds_1", "alice")
    assert (used(database, "alice"), used(database, "bob")) == ({}, {"datasets": 500})
    write(database, dataset_store.remove, "ds_1")
    assert used(database, "bob") == {}


def test_jobs_that_store_no_files_count_by_their_logs_whoever_ends_them(database: Database) -> None:
    cancelled = submit(database, "alice")
    assert used(database, "alice") == {}  # the limit on queued jobs bounds these
    write(database, jobs.request_cancel, cancelled)
    failed = running(database, "alice")
    write(database, queue.finish, failed, JobState.FAILED, "no", {"code": "diverged", "detail": "nan"})
    assert used(database, "alice") == {"logs": log_of(database, cancelled, failed.job_id)}


def test_changes_of_a_job_count_by_the_lines_that_they_add(database: Database) -> None:
    job_id = submit(database, "alice")

    def rename(name: str) -> None:
        with database.write() as session:
            jobs.edit(session, jobs.lock_job(session, job_id), {"name": name})

    rename("1")
    once = used(database, "alice")["logs"]
    for i in range(10):
        rename(f"again {i}")
    assert used(database, "alice")["logs"] == once + 10 * LINE_BYTES


WIDE = "\U0001f600"  # four bytes, and twelve in the JSON of SQLite


def text_of(database: Database, job_id: str) -> int:
    """Bytes of the texts of a job's row and log, as they are stored."""
    with database.read() as session:
        dialect = session.get_bind().dialect.name
        octets = "octet_length({}::text)" if dialect == "postgresql" else "length(CAST({} AS BLOB))"
        row = " + ".join(map(octets.format, ("spec", "labels", "name")))
        line = " + ".join(map(octets.format, ("message", "data")))
        texts = (f"SELECT {row} FROM jobs WHERE id = :id", f"SELECT sum({line}) FROM events WHERE job_id = :id")
        return sum(session.scalar(text(query), {"id": job_id}) for query in texts)


def test_long_labels_count_by_their_bytes_when_they_are_submitted_and_changed(database: Database) -> None:
    labels = {f"{i}{WIDE * 60}": WIDE * 512 for i in range(16)}
    job_id = submit(database, "alice", labels=labels)
    assert used(database, "alice")["logs"] >= text_of(database, job_id) > 40_000
    for size in (500, 400, 1):
        with database.write() as session:
            changed = dict.fromkeys(labels, WIDE * size)
            jobs.edit(session, jobs.lock_job(session, job_id), {"labels": changed})
        assert used(database, "alice")["logs"] >= text_of(database, job_id)
    before = used(database, "alice")
    write(database, stored_bytes.recount)
    assert used(database, "alice") == before
    write(database, jobs.request_cancel, job_id)
    write(database, jobs.remove, job_id)
    assert used(database, "alice") == {}


def test_long_messages_of_a_log_count_by_their_bytes(database: Database) -> None:
    lease = running(database, "alice")
    write(database, queue.append, lease, [Line("log", WIDE * 1000, {}), Line("log", "short", {"text": "a" * 3000})])
    write(database, queue.finish, lease, JobState.FAILED, "no", {"code": "diverged", "detail": "nan"})
    texts = 4 * 1000 + len(json.dumps({"text": "a" * 3000})) - 2 * LINE_TEXT
    assert used(database, "alice")["logs"] == log_of(database, lease.job_id) + texts + len("{}") + len("short")
    write(database, jobs.remove, lease.job_id)
    assert used(database, "alice") == {}


def test_the_audit_log_counts_for_who_called_and_stays_when_the_job_is_deleted(database: Database) -> None:
    for owner, rows in (("alice", 3), (None, 2)):
        for _ in range(rows):
            write(database, audit.note, Actor(owner), "jobs.submit", "job_1")
    write(database, stored_bytes.recount, ("audit",))
    assert used(database, "alice") == {"audit": 3 * AUDIT_BYTES}
    assert used(database, None) == {"audit": 2 * AUDIT_BYTES}
    write(database, audit.sweep, 0, now())
    write(database, stored_bytes.recount, ("audit",))
    assert used(database, "alice") == used(database, None) == {}


def test_a_job_that_is_retried_is_counted_once(database: Database) -> None:
    job_id = submit(database, "alice")
    for _ in range(3):
        write(database, jobs.request_cancel, job_id)
        write(database, jobs.retry, job_id)
    write(database, jobs.request_cancel, job_id)
    assert used(database, "alice") == {"logs": log_of(database, job_id)}
    write(database, jobs.remove, job_id)
    assert used(database, "alice") == {}


def test_a_change_that_is_rolled_back_counts_nothing(database: Database) -> None:
    lease = running(database, "alice")
    with pytest.raises(RuntimeError), database.write() as session:
        queue.finish(session, lease, JobState.SUCCEEDED, "done", files=[stored(size=10)])
        raise RuntimeError
    assert used(database, "alice") == {}


@pytest.mark.parametrize(
    ("limit", "more", "refused"), [(99, 1, True), (100, 1, True), (101, 1, False), (100, 0, False)]
)
def test_the_limit_is_the_number_of_bytes_that_may_be_stored(
    database: Database, limit: int, more: int, refused: bool
) -> None:
    dataset(database, "ds_1", 100, "alice")
    if refused:
        with pytest.raises(OwnerStorageFull):
            read(database, stored_bytes.check, "alice", limit, more)
    else:
        read(database, stored_bytes.check, "alice", limit, more)
    read(database, stored_bytes.check, "alice", None)
    read(database, stored_bytes.check, "bob", 1)
    read(database, stored_bytes.check, None, 1)


def test_a_refusal_names_what_is_used_the_limit_and_what_to_delete(database: Database) -> None:
    dataset(database, "ds_1", 1_500_000_000, "alice")
    ended(database, "alice", 500)
    with pytest.raises(OwnerStorageFull) as refused:
        read(database, stored_bytes.check, "alice", 1_000_000_000)
    assert refused.value.detail.startswith("alice stores 1.5 GB (datasets 1.5 GB, logs ")
    assert refused.value.detail.endswith(
        ", artifacts 500 bytes) and may store 1.0 GB; delete ended jobs or datasets (GRADQ_MAX_OWNER_BYTES)"
    )
    assert refused.value.extra["limit_bytes"] == 1_000_000_000
    assert refused.value.extra["used_bytes"] == sum(refused.value.extra["used"].values()) > 1_500_000_500


def test_rows_are_folded_into_one_per_owner_and_kind(database: Database) -> None:
    def rows() -> int:
        return read(database, lambda session: session.scalar(select(func.count()).select_from(StoredBytes)))

    def all_used() -> list[dict[str, int]]:
        return [used(database, f"owner{i}") for i in range(150)]

    with database.write() as session:
        for i in range(150):  # so many owners that their sums alone are more rows than the fold waits for
            stored_bytes.add(session, f"owner{i}", "artifacts", i + 1)
            stored_bytes.add(session, f"owner{i}", "datasets", i + 1)
    write(database, stored_bytes.fold)
    assert rows() == 300
    with database.write() as session:
        for _ in range(stored_bytes.FOLD_ABOVE + 1):
            stored_bytes.add(session, "owner1", "artifacts", 3)
    before = all_used()
    write(database, stored_bytes.fold)
    assert rows() == 300
    assert all_used() == before
    assert before[1] == {"artifacts": 2 + 3 * (stored_bytes.FOLD_ABOVE + 1), "datasets": 2}


def test_a_recount_says_what_was_counted(database: Database) -> None:
    ended(database, "alice", 70, 30), ended(database, None, 9)
    dataset(database, "ds_1", 500, "alice")
    write(database, dataset_store.take, "ds_1", "bob", "cats")
    lease = running(database, "bob")
    write(database, queue.add_checkpoint, lease, stored(size=10), 1, 1, 2)
    before = {owner: used(database, owner) for owner in ("alice", "bob", None)}
    assert all(before.values())
    write(database, stored_bytes.recount)
    assert {owner: used(database, owner) for owner in before} == before
    write(database, lambda session: session.execute(text("DELETE FROM stored_bytes")))
    write(database, stored_bytes.recount)
    assert {owner: used(database, owner) for owner in before} == before
