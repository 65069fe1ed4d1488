"""The doorbell: the only task. It carries no job; the worker that receives it claims one in the database."""

from __future__ import annotations

from shared.broker import DOORBELL
from worker.app import app, runtime


@app.task(name=DOORBELL)
def doorbell() -> None:
    runtime().run_queued_jobs()
