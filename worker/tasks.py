"""The doorbell: the only task. It carries no job; the worker that receives it claims one in the database, and runs it
in a thread of its own, so that the next message is received meanwhile if there is a free slot for it."""

from __future__ import annotations

from shared.broker import DOORBELL
from worker.app import app, runtime


@app.task(name=DOORBELL)
def doorbell() -> None:
    runtime().answer_doorbell()
