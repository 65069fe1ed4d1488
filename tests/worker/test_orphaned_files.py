"""Files in the store that no row names are deleted once their attempt has ended; files that a row names are kept."""

from __future__ import annotations

from pathlib import Path

from support.store import claim_again, running, write

from shared.artifacts import ArtifactStore, artifact_key, checkpoint_key
from shared.db.database import Database
from shared.jobs import queue
from worker.orphaned_files import remove_orphaned_files


def put(store: ArtifactStore, path: Path, key: str) -> object:
    path.write_text("x")
    return store.put(key, path)


def test_only_files_without_a_row_are_removed_and_only_after_their_attempt(database: Database, tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store")
    lease = running(database)
    job, path = lease.job_id, tmp_path / "file"
    kept = put(store, path, checkpoint_key(job, 1, 50))
    write(database, queue.add_checkpoint, lease, kept, 50, 1, 2)
    orphans = [checkpoint_key(job, 1, 100), artifact_key(job, 1, "model.json"), f"{checkpoint_key(job, 1, 9)}.a1.part"]
    for key in orphans:
        put(store, path, key)
    remove_orphaned_files(store, database, job, 1)
    assert len(store.keys_of(job)) == 4, "the attempt is running: its files may still get a row"
    write(database, queue.mark_lost, lease, "lost")
    second = claim_again(database, job)
    theirs = checkpoint_key(job, second.attempt, 100)
    put(store, path, theirs)
    remove_orphaned_files(store, database, job, 1)
    assert sorted(store.keys_of(job)) == sorted([checkpoint_key(job, 1, 50), theirs])
    remove_orphaned_files(store, database, "job_never_seen", 1)
