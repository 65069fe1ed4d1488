"""What a backup brings back: the same rows and files, whichever database and store it goes to; jobs that ran, wait."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from sqlalchemy import text
from support.place import Place, full
from support.store import claim, job_of, lines_of, read, running, submit, write
from support.transfers import Transfers

from gradq.backup import NOT_SAVED, NothingToBackUp
from shared import idempotency
from shared.db import migrate
from shared.db.tables import Leader, Worker
from shared.jobs import counters, jobs, queue, stored_bytes
from shared.jobs.states import JobState
from shared.jobs.stored_bytes import LINE_BYTES

FIRST, *LATER = migrate.known()[:-1]
OLD = [FIRST, *(pytest.param(revision, marks=pytest.mark.long) for revision in LATER)]


def test_everything_comes_back_in_either_database_and_another_store(place: Place, other_target: Place) -> None:
    ids = full(place)
    saved, backup = place.save()
    assert saved.whole
    assert not saved.left_out
    assert (saved.rows["jobs"], saved.rows["datasets"], saved.files) == (4, 1, 2 + 3 + 2)
    restored = other_target.restore(backup)
    assert restored.jobs == {"paused": 1, "queued": 2, "succeeded": 1}
    assert (restored.files, restored.size_bytes) == (saved.files, saved.size_bytes)
    assert other_target.files() == place.files()
    before, after = place.rows(), other_target.rows()
    assert after.keys() == before.keys()
    ran = ids["running"]
    (requeued,) = after.pop("stored_bytes")[len(before.pop("stored_bytes")) :]
    assert (requeued["kind"], requeued["size_bytes"]) == ("logs", LINE_BYTES)
    for table in before:
        named = "id" if table in ("jobs", "datasets") else "job_id"
        others = [[row for row in rows[table] if row.get(named) != ran] for rows in (before, after)]
        assert others[1] == others[0], table
    assert after["checkpoints"] == before["checkpoints"]
    more = {table: saved.rows[table] + 1 for table in ("events", "stored_bytes")}
    assert other_target.save()[0].rows == {**saved.rows, **more}


def test_a_job_that_ran_waits_at_the_place_where_it_was(place: Place, target: Place) -> None:
    job_id = full(place)["running"]
    before, log = job_of(place.database, job_id), lines_of(place.database, job_id)
    target.restore(place.save()[1])
    job = job_of(target.database, job_id)
    assert (job.state, job.lease_token, job.lease_until, job.worker) == (JobState.QUEUED, None, None, None)
    assert (job.attempt, job.failures, job.started_at) == (before.attempt, 1, before.started_at)
    attempts = read(target.database, jobs.attempts_of, job_id)
    assert [(attempt.number, attempt.outcome) for attempt in attempts] == [(1, "worker_lost"), (2, "drained")]
    lines = lines_of(target.database, job_id)
    assert [line.seq for line in lines] == [*(line.seq for line in log), log[-1].seq + 1]
    assert "restored from the backup of 20" in lines[-1].message
    again = claim(target.database)
    assert again is not None
    assert (again.id, again.attempt) == (job_id, 3)
    checkpoints, _ = read(target.database, queue.resume_point, queue.lease_of(again))
    assert [row.step for row in checkpoints] == [60, 30]


@pytest.mark.parametrize(("action", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_a_request_pending_at_the_backup_is_carried_out(
    sqlite_place: Place, target: Place, action: str, state: JobState
) -> None:
    lease = running(sqlite_place.database)
    write(sqlite_place.database, getattr(jobs, f"request_{action}"), lease.job_id)
    target.restore(sqlite_place.save()[1])
    assert job_of(target.database, lease.job_id).state == state


def test_who_worked_and_led_there_is_not_restored(sqlite_place: Place, target: Place) -> None:
    full(sqlite_place)
    target.restore(sqlite_place.save()[1])
    with target.database.read() as session:
        assert (session.query(Worker).count(), session.query(Leader).count()) == (0, 0)


def test_a_request_that_is_sent_again_after_the_restore_gets_its_first_answer(
    sqlite_place: Place, target: Place
) -> None:
    full(sqlite_place)
    target.restore(sqlite_place.save()[1])
    answer = write(target.database, idempotency.claim, "my key", "f" * 64)
    assert answer == idempotency.Settled(202, {"Location": "/v1/jobs/1"}, "{}")


def test_a_place_that_was_migrated_and_has_forgotten_its_workers_counts_as_empty(
    sqlite_place: Place, target: Place
) -> None:
    full(sqlite_place)
    target.database.migrate()
    target.beat()
    write(target.database, lambda session: session.execute(text("UPDATE workers SET seen_at = '2026-01-01 00:00:00'")))
    target.restore(sqlite_place.save()[1])
    assert len(target.rows()["jobs"]) == 4


def test_a_gzipped_backup_can_be_restored(sqlite_place: Place, target: Place) -> None:
    full(sqlite_place)
    target.restore(gzip.compress(sqlite_place.save()[1]))
    assert target.files() == sqlite_place.files()


def test_the_same_rows_give_the_same_table_bytes(sqlite_place: Place, target: Place) -> None:
    """So that a deduplicating store keeps nightly backups cheaply."""
    sqlite_place.finished("model.json")
    first, second = (sqlite_place.save()[1] for _ in range(2))
    assert len(first) == len(second)
    assert sum(a != b for a, b in zip(first, second, strict=True)) < 2000  # times in headers


@pytest.mark.parametrize("revision", OLD)
def test_a_backup_of_every_older_schema_is_brought_to_the_newest(
    place: Place, other_target: Place, revision: str
) -> None:
    full(place)
    before = place.rows(of=migrate.tables_of(revision) - NOT_SAVED)
    place.database.migrate(revision)
    try:
        saved, backup = place.save()
    finally:
        place.database.migrate()  # as other tests expect it
    assert saved.revision == revision
    assert other_target.restore(backup).revision == revision
    with other_target.database.snapshot() as connection:
        assert migrate.revision_of(connection) == migrate.known()[-1]
    assert other_target.rows().keys() == place.rows().keys()
    assert [row["name"] for row in other_target.rows()["jobs"]] == [row["name"] for row in before["jobs"]]
    assert other_target.rows()["artifacts"] == before["artifacts"]


def test_a_database_without_tables_is_nothing_to_back_up(target: Place) -> None:
    with pytest.raises(NothingToBackUp, match="GRADQ_STATE_DIR or GRADQ_DATABASE_URL"):
        target.save()


# --- while the service runs -------------------------------------------------------------------------------------------


class Once:
    """What happens in the service at the first file that is copied: after the snapshot, before the rest."""

    def __init__(self, act: Any) -> None:
        self.act, self.done = act, False

    def __call__(self, done: int, total: int) -> None:
        if not self.done:
            self.done = True
            self.act()


def test_what_comes_after_the_snapshot_is_not_in_the_backup(place: Place, target: Place) -> None:
    place.finished("model.json")
    before = place.rows()
    saved, backup = place.save(Once(lambda: (place.finished("later.json"), place.dataset(), submit(place.database))))
    assert saved.whole
    target.restore(backup)
    assert len(place.rows()["jobs"]) == 3
    assert target.rows() == before


def test_a_job_that_is_deleted_meanwhile_is_named_and_the_rest_is_whole(place: Place, target: Place) -> None:
    kept, gone = place.finished("model.json"), place.finished("model.json", "metrics.json")
    saved, backup = place.save(Once(lambda: place.delete(gone)))
    assert saved.whole
    assert {(left.table, left.key.split("/")[0], left.why) for left in saved.left_out} == {
        ("checkpoints", gone, "deleted"),
        ("artifacts", gone, "deleted"),
    }
    assert len(saved.left_out) == 3
    target.restore(backup)
    assert {row["job_id"] for row in target.rows()["artifacts"]} == {kept}
    assert [row["id"] for row in target.rows()["jobs"]] == sorted([kept, gone])  # its result and its curve


def test_a_running_job_s_newer_checkpoint_stands_in_for_those_that_it_replaced(place: Place, target: Place) -> None:
    place.finished()  # the first checkpoint that is copied
    lease = running(place.database)
    place.checkpoint(lease, 10)
    place.checkpoint(lease, 20)

    def goes_on() -> None:
        for step in (30, 40, 50):
            place.checkpoint(lease, step)

    saved, backup = place.save(Once(goes_on))
    assert not saved.left_out
    target.restore(backup)
    assert [row["step"] for row in target.rows()["checkpoints"] if row["job_id"] == lease.job_id] == [50]
    assert f"{lease.job_id}/checkpoints/1-50.pt" in target.files()


def test_of_two_checkpoints_the_one_that_is_left_is_enough(sqlite_place: Place, target: Place) -> None:
    sqlite_place.finished()
    lease = running(sqlite_place.database)
    sqlite_place.checkpoint(lease, 10)
    sqlite_place.checkpoint(lease, 20)
    saved, backup = sqlite_place.save(Once(lambda: sqlite_place.checkpoint(lease, 30)))
    assert not saved.left_out
    target.restore(backup)
    assert [row["step"] for row in target.rows()["checkpoints"] if row["job_id"] == lease.job_id] == [20]


def test_what_the_store_has_lost_or_damaged_is_named_as_its_fault(sqlite_place: Place, target: Place) -> None:
    job_id, folder = sqlite_place.finished("model.json", "metrics.json", "spec.json"), sqlite_place.dataset()
    sqlite_place.store.remove(f"{job_id}/1/model.json")
    sqlite_place.store.remove(f"{folder}/labels.npy")
    sqlite_place.put(f"{job_id}/1/metrics.json", b"rotten")
    saved, backup = sqlite_place.save()
    assert not saved.whole
    assert {(left.table, left.key, left.why) for left in saved.left_out} == {
        ("artifacts", f"{job_id}/1/model.json", "lost"),
        ("artifacts", f"{job_id}/1/metrics.json", "damaged"),
        ("datasets", "ds_1", "lost"),
    }
    target.restore(backup)
    assert [row["name"] for row in target.rows()["artifacts"]] == ["spec.json"]
    assert not target.rows()["datasets"]
    assert set(target.files()) == {f"{job_id}/1/spec.json", f"{job_id}/checkpoints/1-7.pt"}
    counted = read(target.database, counters.read)[counters.STORED]
    assert sum(kind.total for kind in counted.values()) == sum(map(len, target.files().values()))
    used = read(target.database, stored_bytes.used_by, None)
    assert sum(used.values()) - used["logs"] == sum(map(len, target.files().values()))


def test_a_store_that_is_no_folder_is_saved_as_well(target: Place, other_target: Place, sqlite_place: Place) -> None:
    full(sqlite_place)
    other_target.restore(sqlite_place.save()[1])
    saved, _ = other_target.save()
    assert (saved.whole, saved.files) == (True, 7)


@pytest.mark.parametrize(("damaged", "whole"), [(1, True), (2, False)])
def test_a_transfer_that_was_damaged_once_is_made_again(
    other_target: Place, sqlite_place: Place, monkeypatch: pytest.MonkeyPatch, damaged: int, whole: bool
) -> None:
    sqlite_place.finished("model.json")
    other_target.restore(sqlite_place.save()[1])
    Transfers(monkeypatch, damaged)
    assert other_target.save()[0].whole == whole
