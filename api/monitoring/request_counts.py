"""One folder for the counts of requests of all server processes of this API, which gunicorn's hooks make and remove.

prometheus_client decides at its import whether counts lie in files that processes share, so the folder is there before
the app is imported. It is new at each start; counters that begin anew are what Prometheus expects of a restart.
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
MEMORY = Path("/dev/shm")  # mkdtemp makes what lies in it ours alone  # nosec B108


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
    """Locked before it has the name that others sweep. The lock lives as long as this process or a child of it."""
    new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = os.open(new / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return new.rename(parent / new.name.removeprefix("."))


def _sweep(parent: Path) -> None:
    """Remove what servers that were killed left behind."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or somebody else's
