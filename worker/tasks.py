"""The doorbell: the one task there is. It carries no job; whoever answers looks at the rows."""

from __future__ import annotations

from shared.broker import DOORBELL
from worker.app import app, runtime


@app.task(name=DOORBELL)
def doorbell() -> None:
    runtime().answer()
