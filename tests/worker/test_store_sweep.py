"""Files without rows are removed from the store, whatever left them; files that rows name and foreign files stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.store import claim_again, running, submit, write

from shared import file_removals
from shared.artifacts import ArtifactStore, artifact_key, checkpoint_key, dataset_folder
from shared.db.database import Database
from shared.errors import StoreUnavailable
from shared.jobs import counters, jobs, queue
from shared.jobs.states import JobState
from worker import store_sweep
from worker.store_sweep import StoreSweep

DELETED = f"job_{0:032x}"  # the id of a job whose row has been deleted


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.fixture
def sweep(database: Database, store: ArtifactStore) -> StoreSweep:
    return StoreSweep(database, store, SimpleQueue(), lambda: True, 0.01, 0.01)


@pytest.fixture
def put(store: ArtifactStore, tmp_path: Path) -> Callable[[str], Any]:
    def put(key: str) -> Any:
        path = tmp_path / Path(key).name
        path.write_text("x")
        return store.put(key, path)

    return put


def finished(database: Database, put: Callable[[str], Any]) -> str:
    """A job that has ended, with one artifact."""
    lease = running(database)
    file = put(artifact_key(lease.job_id, 1, "model.json"))
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done", files=[file])
    return lease.job_id


def test_files_of_ended_and_unknown_jobs_without_a_row_are_removed_and_counted(
    database: Database, store: ArtifactStore, sweep: StoreSweep, put: Callable[[str], Any]
) -> None:
    ended, lease, queued = finished(database, put), running(database), submit(database)
    kept = [artifact_key(ended, 1, "model.json"), checkpoint_key(lease.job_id, 1, 50), "doctor-1/1/a", "other/thing"]
    strays = [
        artifact_key(ended, 1, "parity.json"),
        artifact_key(ended, 2, "model.json"),
        f"{artifact_key(ended, 1, 'a')}.ab12.part",
        checkpoint_key(queued, 1, 50),
        artifact_key(DELETED, 1, "model.json"),
    ]
    for key in [*kept[1:], *strays]:
        put(key)
    sweep.sweep()
    left = [
        key for folder in (ended, queued, lease.job_id, DELETED, "doctor-1", "other") for key in store.keys_of(folder)
    ]
    assert sorted(left) == sorted(kept)
    with database.read() as session:
        assert counters.read(session)[counters.ORPHANS][""].count == len(strays)


def test_a_file_of_a_job_that_is_claimed_during_the_sweep_stays(
    database: Database,
    store: ArtifactStore,
    sweep: StoreSweep,
    put: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease = running(database)
    write(database, queue.mark_lost, lease, "lost")
    stray, mine = checkpoint_key(lease.job_id, 1, 50), checkpoint_key(lease.job_id, 2, 60)
    put(stray)
    keys_of = ArtifactStore.keys_of

    def claims(self: ArtifactStore, job_id: str) -> list[str]:
        found = keys_of(self, job_id)
        monkeypatch.undo()
        claim_again(database, job_id)
        put(mine)
        return found

    monkeypatch.setattr(ArtifactStore, "keys_of", claims)
    sweep.sweep()
    assert sorted(store.keys_of(lease.job_id)) == [stray, mine], "its own end removes what is left"


def test_files_of_lost_attempts_are_removed_by_every_worker(
    database: Database, store: ArtifactStore, sweep: StoreSweep, put: Callable[[str], Any]
) -> None:
    lease = running(database)
    put(checkpoint_key(lease.job_id, 1, 50))
    write(database, queue.mark_lost, lease, "lost")
    sweep.lost_attempts.put((lease.job_id, 1))
    sweep.leads = lambda: False
    sweep.round()
    assert store.keys_of(lease.job_id) == []


def test_rows_whose_files_are_missing_are_named_in_the_log(
    database: Database, store: ArtifactStore, sweep: StoreSweep, put: Callable[[str], Any]
) -> None:
    job_id, other = finished(database, put), finished(database, put)
    store.remove(artifact_key(job_id, 1, "model.json"))
    lost = finished(database, put)
    store.remove_folder(lost)
    with capture_logs() as logs:
        sweep.sweep()
    one, folder = [line for line in logs if line["log_level"] == "error"]
    assert one["keys"] == [artifact_key(job_id, 1, "model.json")]
    assert folder["jobs"] == [lost]
    assert store.keys_of(other) == [artifact_key(other, 1, "model.json")]


def test_folders_of_datasets_without_a_row_are_removed_after_the_time_of_an_upload(
    store: ArtifactStore, sweep: StoreSweep, put: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dataset_folder("ds_1")
    put(f"{folder}/x_train.npy")
    sweep.sweep()
    assert store.has(f"{folder}/x_train.npy"), "its row may follow"
    monkeypatch.setattr(store_sweep, "UPLOAD_SECONDS", 0.0)
    sweep.sweep()
    assert not store.has(f"{folder}/x_train.npy")


def test_files_of_deleted_jobs_are_removed_once_the_store_is_back(
    database: Database,
    store: ArtifactStore,
    sweep: StoreSweep,
    put: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [finished(database, put) for _ in range(3)]
    for job_id in ids:
        write(database, jobs.remove, job_id)
    right, asked = ArtifactStore.remove_folder, []

    def away_at_the_second(self: ArtifactStore, key: str) -> int:
        asked.append(key)
        if len(asked) == 2:
            raise StoreUnavailable("away")
        return right(self, key)

    monkeypatch.setattr(ArtifactStore, "remove_folder", away_at_the_second)
    with pytest.raises(StoreUnavailable):
        sweep.remove_listed()
    assert write(database, file_removals.oldest, 9) == [ids[1]]
    monkeypatch.undo()
    sweep.remove_listed()
    assert write(database, file_removals.oldest, 9) == []
    assert store.folders() == []


@pytest.mark.parametrize("key", ["", "datasets"])
def test_a_listed_folder_that_has_those_of_others_is_refused(
    database: Database, store: ArtifactStore, sweep: StoreSweep, put: Callable[[str], Any], key: str
) -> None:
    """A restored backup is untrusted input."""
    put(f"{DELETED}/1/model.json")
    put("datasets/ds_1/a/x")
    write(database, file_removals.add, key)
    sweep.remove_listed()
    assert len(store.folders()) == 2
    assert write(database, file_removals.oldest, 9) == [], "it would keep the others waiting"


def test_a_store_whose_folders_this_database_does_not_know_is_left_alone(
    store: ArtifactStore, sweep: StoreSweep, put: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with a wrong or a new database, or two services with one store."""
    monkeypatch.setattr(store_sweep, "UPLOAD_SECONDS", 0.0)
    keys = [f"job_{number:032x}/1/model.safetensors" for number in range(4)] + ["datasets/ds_1/ab/x_train.npy"]
    for key in keys:
        put(key)
    with capture_logs() as logs:
        sweep.sweep()
        sweep.sweep()
    assert [line["unknown"] for line in logs if line["log_level"] == "error"] == [5, 5]
    assert all(store.has(key) for key in keys)


def test_a_folder_that_cannot_be_removed_keeps_no_other_waiting(
    database: Database,
    store: ArtifactStore,
    sweep: StoreSweep,
    put: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = [finished(database, put) for _ in range(3)]
    for job_id in ids:
        write(database, jobs.remove, job_id)
    right = ArtifactStore.remove_folder

    def first_is_denied(self: ArtifactStore, key: str) -> int:
        if key == ids[0]:
            raise StoreUnavailable("PermissionError")
        return right(self, key)

    monkeypatch.setattr(ArtifactStore, "remove_folder", first_is_denied)
    with pytest.raises(StoreUnavailable):
        sweep.remove_listed()
    assert write(database, file_removals.oldest, 9) == ids[:1]
    assert store.folders() == ids[:1]


def test_a_store_that_is_not_mounted_keeps_the_list(
    database: Database, store: ArtifactStore, sweep: StoreSweep, put: Callable[[str], Any], tmp_path: Path
) -> None:
    job_id = finished(database, put)
    write(database, jobs.remove, job_id)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    for step in (sweep.remove_listed, sweep.sweep):
        with pytest.raises(StoreUnavailable):
            step()
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    sweep.remove_listed()
    assert (store.folders(), write(database, file_removals.oldest, 9)) == ([], [])
