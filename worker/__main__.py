"""`python -m worker [FD]` is a worker: Celery with the tasks of `worker.app`, settings by the environment."""

from __future__ import annotations

import socket
import sys
from uuid import uuid4

from shared.log_stream import hold_streams
from worker import startup
from worker.launcher import Launcher


def main(fd: int | None = None) -> None:
    """The trainer server starts first, since it imports PyTorch for some seconds. `fd` is the socket of
    `worker.startup`: `gradq up` prepares the database and starts the API before the rest begins."""
    hold_streams()
    Launcher().begin()
    if fd is not None:
        startup.wait_for_turn(fd)
    from shared.broker import QUEUE
    from worker.app import app, settings

    # Not by Celery's command line, which imports all its verbs and what colours their output: 10 MB and 0.1 s.
    # Without events of any kind: Celery sends them in the thread that receives messages and sees signals, and repeats
    # that without an end while the broker refuses it.
    worker = app.Worker(
        hostname=f"gradq-{uuid4().hex[:12]}@{socket.gethostname()}",
        queues=[QUEUE],
        loglevel=settings.log_level.upper(),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
