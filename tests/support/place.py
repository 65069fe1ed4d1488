"""A service's database and store with a job in every state, made by the functions that the service calls."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from support.store import claim, point, running, write

from gradq.backup import NOT_SAVED, rows
from gradq.backup.restore import Restored, restore
from gradq.backup.save import Saved, save
from shared import idempotency, tokens, workers
from shared.artifacts import ArtifactStore, artifact_key, checkpoint_key, dataset_folder
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db import migrate
from shared.db.database import Database
from shared.db.tables import Base, Worker
from shared.jobs import joblog, jobs, queue
from shared.jobs.queue import Lease
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec
from worker import leadership

ALIVE_SECONDS = 15.0


def quiet(done: int, total: int) -> None:
    """Progress is not shown."""


@dataclass
class Place:
    """A database, a store, and a folder for temporary files."""

    database: Database
    store: ArtifactStore
    folder: Path

    # --- what a service does ------------------------------------------------------------------------------------------

    def put(self, key: str, content: bytes) -> Any:
        path = self.folder / key.rpartition("/")[2]
        path.write_bytes(content)
        return self.store.put(key, path)

    def finish(self, lease: Lease, *names: str) -> None:
        files = [self.put(artifact_key(lease.job_id, lease.attempt, name), name.encode() * 5000) for name in names]
        write(self.database, queue.finish, lease, JobState.SUCCEEDED, "done", result={"test_loss": 0.1}, files=files)

    def finished(self, *names: str) -> str:
        lease = running(self.database)
        write(self.database, queue.append, lease, [point("epoch", 7, 0.1), point("batch", 50, 1e-300)])
        self.checkpoint(lease, 7)
        self.finish(lease, *names)
        return lease.job_id

    def checkpoint(self, lease: Lease, step: int, keep_last: int = 2) -> None:
        file = self.put(checkpoint_key(lease.job_id, lease.attempt, step), b"%d" % step * 9000)
        for old in write(self.database, queue.add_checkpoint, lease, file, step, 1, keep_last):
            self.store.remove(old)

    def dataset(self, dataset_id: str = "ds_1") -> str:
        folder = dataset_folder(dataset_id)
        files = [self.put(f"{folder}/{name}", name.encode() * 3000) for name in ("images.npy", "labels.npy")]
        write(self.database, dataset_store.add, dataset_id, DATASETS["digits"], "0" * 64, {}, folder, files)
        return folder

    def delete(self, job_id: str) -> None:
        write(self.database, jobs.remove, job_id)
        self.store.remove_folder(job_id)

    def beat(self) -> None:
        facts = {"host": "h", "pid": 1, "slots": 1, "free_slots": 1, "draining": False, "version": "1"}
        row = Worker(id="w1", devices={"kinds": ["cpu"]}, started_at=joblog.now(), **facts)
        write(self.database, workers.heartbeat, row)
        write(self.database, leadership.acquire_leadership, "reconciler", "w1", 10)

    # --- what it holds ------------------------------------------------------------------------------------------------

    def rows(self, of: set[str] | None = None) -> dict[str, list[dict[str, Any]]]:
        """Every row of every table that a backup holds, in JSON types; or of the tables `of`."""
        names = set(Base.metadata.tables) - NOT_SAVED if of is None else of
        with self.database.snapshot() as connection:
            tables = rows.reflected(connection, names)
            return {table.name: list(rows.read(connection, rows.whole(table))) for table in tables}

    def files(self) -> dict[str, bytes]:
        root = self.store.root.rstrip("/")
        found = self.store.fs.find(root) if self.store.fs.exists(root) else []
        return {path.removeprefix(root).lstrip("/"): self.store.fs.cat_file(path) for path in found}

    def untouched(self) -> bool:
        """Whether the place is empty: without tables and files; a local store also without empty folders."""
        with self.database.snapshot() as connection:
            empty = migrate.revision_of(connection) is None
        root = self.store.local_path("")
        return empty and not self.files() and not (root and root.exists() and list(root.iterdir()))

    # --- backup and restore -------------------------------------------------------------------------------------------

    def save(self, advance: Callable[[int, int], None] = quiet) -> tuple[Saved, bytes]:
        out, scratch = io.BytesIO(), self.folder / uuid4().hex
        scratch.mkdir()
        return save(self.database, self.store, out, scratch, advance), out.getvalue()

    def restore(self, backup: bytes) -> Restored:
        scratch = self.folder / uuid4().hex
        scratch.mkdir()
        return restore(self.database, self.store, io.BytesIO(backup), scratch, ALIVE_SECONDS, quiet)


@contextlib.contextmanager
def sqlite_place_in(folder: Path) -> Iterator[Place]:
    """An empty place below `folder` with SQLite and local files."""
    work = folder / "work"
    work.mkdir()
    database = Database(f"sqlite:///{folder / 'gradq.db'}")
    yield Place(database, ArtifactStore(f"file://{folder / 'artifacts'}"), work)
    database.close()


def full(place: Place) -> dict[str, str]:
    """Fill the place: jobs in several states, a dataset, tokens, idempotency keys. Returns job ids by state."""
    place.dataset()
    done = place.finished("model.safetensors", "metrics.json")
    lost = running(place.database, name="lost once", seed=3)
    write(place.database, queue.mark_lost, lost, "its worker died")
    write(place.database, lambda session: session.execute(text("UPDATE jobs SET not_before = NULL")))
    again = claim(place.database)
    assert again is not None
    place.checkpoint(queue.lease_of(again), 30)
    place.checkpoint(queue.lease_of(again), 60)
    paused = running(place.database, labels={"team": "vision"})
    write(place.database, queue.append, paused, [point("batch", step) for step in range(1, 1001)])  # in blocks, too
    write(place.database, jobs.request_pause, paused.job_id)
    write(place.database, queue.release, paused, "stopped")
    claimed = write(place.database, idempotency.claim, "my key", "f" * 64)
    write(place.database, idempotency.settle, claimed, idempotency.Settled(202, {"Location": "/v1/jobs/1"}, "{}"))
    write(place.database, idempotency.claim, "our key", "e" * 64, "alice")
    write(place.database, tokens.create, "laptop", "alice", "submit", joblog.now())
    write(place.database, dataset_store.take, "ds_1", "alice", "cats")
    hers = JobSpec.parse({"name": "grüße \U0001f40c", "dataset": "digits"})
    queued = write(place.database, jobs.create, hers, owner="alice").id
    place.beat()
    return {"done": done, "running": lost.job_id, "paused": paused.job_id, "queued": queued}
