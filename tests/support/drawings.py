"""A job that has succeeded and whose pictures are not drawn yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.store import running, write

from shared.artifacts import ArtifactStore, artifact_key
from shared.db.database import Database
from shared.db.tables import ArtifactRow
from shared.events import UNDRAWN
from shared.jobs import queue
from shared.jobs.queue import Lease
from shared.jobs.states import JobState
from shared.pictures import undrawn
from shared.pictures.drawing import Drawing, ShownImages

PICTURES = ["confusion_matrix.png", "loss_curve.png", "loss_curve.svg", "mistakes.png", "predictions.png"]
SHOWN = ShownImages(np.zeros((2, 8, 8, 1), np.uint8), [0, 1], [0, 0], [0.9, 0.8])
DRAWING = Drawing("a job", {}, ["a", "b"], np.array([[1, 0], [1, 0]]), SHOWN, SHOWN, None)


def finished(database: Database, store: ArtifactStore, folder: Path, drawing: Drawing = DRAWING) -> Lease:
    """A job with the files spec.json and the drawing, which are written into the folder before."""
    lease = running(database)
    (folder / "spec.json").write_text("{}")
    drawing.save(folder / UNDRAWN)
    stored = [
        store.put(artifact_key(lease.job_id, lease.attempt, name), folder / name) for name in ("spec.json", UNDRAWN)
    ]
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done", files=stored)
    return lease


def undrawn_row(database: Database, job_id: str) -> ArtifactRow:
    with database.read() as session:
        row = undrawn.of_job(session, job_id)
    assert row is not None
    return row
