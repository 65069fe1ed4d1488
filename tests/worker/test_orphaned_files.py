"""What an attempt left in the store without a row goes when the attempt has ended; what a row names stays."""

from __future__ import annotations

from pathlib import Path

from support.store import claim_again, running, write

from shared.artifacts import ArtifactStore, artifact_key, checkpoint_key
from shared.db.database import Database
from shared.jobs import queue
from worker.orphaned_files import sweep_strays


def put(store: ArtifactStore, path: Path, key: str) -> object:
    path.write_text("x")
    return store.put(key, path)


def test_only_what_no_row_names_goes_and_only_after_its_attempt(database: Database, tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store")
    lease = running(database)
    job, path = lease.job_id, tmp_path / "file"
    kept = put(store, path, checkpoint_key(job, 1, 50))
    write(database, queue.add_checkpoint, lease, kept, 50, 1, 2)
    strays = [checkpoint_key(job, 1, 100), artifact_key(job, 1, "model.json"), f"{checkpoint_key(job, 1, 9)}.a1.part"]
    for key in strays:
        put(store, path, key)
    sweep_strays(store, database, job, 1)
    assert len(store.keys_of(job)) == 4, "the attempt still runs: what it stored may be named yet"
    write(database, queue.mark_lost, lease, "lost")
    second = claim_again(database, job)
    theirs = checkpoint_key(job, second.attempt, 100)
    put(store, path, theirs)
    sweep_strays(store, database, job, 1)
    assert sorted(store.keys_of(job)) == sorted([checkpoint_key(job, 1, 50), theirs])
    sweep_strays(store, database, "job_never_seen", 1)
