"""What all supervisors of one worker share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from queue import SimpleQueue

from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.db.database import Database
from worker.launcher import Launcher
from worker.start_failures import StartFailures
from worker.storage_watch import StorageWatch


@dataclass(frozen=True)
class WorkerContext:
    """`threads`: CPU threads per slot. `draining`: set when the worker shuts down and takes no more jobs. `running`:
    names of the run folders that this worker's supervisors use. `lost_attempts`: job and number of attempts of dead
    workers, and of this one's with a store that is not a folder, whose files without a row `StoreSweep` removes."""

    settings: Settings
    database: Database
    store: ArtifactStore
    launcher: Launcher
    threads: int
    draining: threading.Event
    storage: StorageWatch = field(init=False)
    lost_attempts: SimpleQueue[tuple[str, int]] = field(default_factory=SimpleQueue)
    running: set[str] = field(default_factory=set)
    start_failures: StartFailures = field(default_factory=StartFailures)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", StorageWatch(self.store, self.settings.runs_dir, self.settings.cache_dir))
