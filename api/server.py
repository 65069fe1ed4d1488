"""How gunicorn serves the app: its configuration file, `gunicorn -c python:api.server`.

Connections are spread evenly, or one process would run out of places for held requests while another has them free.
"""

from __future__ import annotations

import mmap
import time
from itertools import count
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from api.held import EXTENSION, Held
from api.request_counts import child_exit, on_exit, on_starting

# what gunicorn reads
__all__ = ["child_exit", "on_exit", "on_starting", "post_worker_init", "pre_fork", "worker_class"]

MOST_PROCESSES = 1024
HEAD_START_SECONDS = 0.001  # what a process gives to the others for each connection that it has more than they
MOST_SECONDS = 0.02

_connections = memoryview(mmap.mmap(-1, 4 * MOST_PROCESSES)).cast("i")  # of each process; all of them share these pages


class Worker(ThreadWorker):
    """Lets processes that hold fewer connections take the next one."""

    number: int  # its place among the processes, given before the fork

    def notify(self) -> None:
        """Called once a turn of the loop."""
        super().notify()
        _connections[self.number] = self.nr_conns

    def accept(self, listener: Any) -> None:
        if (more := self.nr_conns - min(_connections[: self.cfg.workers])) > 0:
            time.sleep(min(more * HEAD_START_SECONDS, MOST_SECONDS))
        super().accept(listener)
        _connections[self.number] = self.nr_conns


worker_class = Worker


def pre_fork(server: Any, worker: Worker) -> None:
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = next(number for number in count() if number not in taken)
    _connections[worker.number] = 0


def post_worker_init(worker: Worker) -> None:
    """Held requests end with their process: SIGTERM makes `alive` false, and gunicorn then waits for them."""
    held: Held = worker.app.callable.extensions[EXTENSION]
    held.watcher.stopping = lambda: not worker.alive
