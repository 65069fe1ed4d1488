"""What all supervisors of one worker share."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.db.database import Database
from worker.launcher import Launcher


@dataclass(frozen=True)
class WorkerContext:
    """`threads`: CPU threads per slot. `draining`: set when the worker shuts down and takes no more jobs."""

    settings: Settings
    database: Database
    store: ArtifactStore
    launcher: Launcher
    threads: int
    draining: threading.Event
