"""`python -m worker [FD]` is a worker: Celery with the tasks of `worker.app`, settings by the environment."""

from __future__ import annotations

import os
import sys
from uuid import uuid4

from shared.broker import QUEUE
from shared.config import Settings
from shared.log_stream import hold_streams
from worker.launcher import Launcher


def main(fd: int | None = None) -> None:
    """The trainer server starts first, since it imports PyTorch for some seconds. With `fd`, the rest waits until the
    other end of that pipe is closed: `gradq up` prepares the database and starts the API meanwhile."""
    hold_streams()
    Launcher().begin()
    if fd is not None:
        os.read(fd, 1)
        os.close(fd)
    from celery.__main__ import main as celery

    # without events of any kind: Celery sends them in the thread that receives messages and sees signals, and repeats
    # that without an end while the broker refuses it
    sys.argv[:] = [
        *("celery", "-A", "worker.app", "worker", "-P", "threads"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        *("-Q", QUEUE, "-n", f"gradq-{uuid4().hex[:12]}@%h", "--loglevel", Settings.from_env().log_level.upper()),
    ]
    celery()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
