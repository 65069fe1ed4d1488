"""The folder for request counts of all server processes of this API, made and removed by gunicorn's hooks.

prometheus_client decides when it is imported whether counts are in files shared by processes, so the folder is made
before the app is imported. It is new at each start; Prometheus expects counters to restart at 0.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

PREFIX, LOCK = "gradq-metrics-", "lock"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
MEMORY = Path("/dev/shm")  # mkdtemp: the folder is accessible to this user only  # nosec B108


def on_starting(server: Any) -> None:
    parent = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(parent)
    os.environ[FOLDER] = str(_make(parent))


def child_exit(server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)


def _make(parent: Path) -> Path:
    """Make the folder; it gets the name that `_sweep` looks for once it is locked. The lock is held until this process
    and its children have ended."""
    new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = os.open(new / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return new.rename(parent / new.name.removeprefix("."))


def _sweep(parent: Path) -> None:
    """Remove the folders of servers that were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or another user's
