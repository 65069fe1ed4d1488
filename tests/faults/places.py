"""Where the parts of a campaign's service run: one host for all of them, or one per worker; their folders and disks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.proxy import Cable
from support.service import Part

# megabytes; a filled disk takes so much of the machine's memory
STATE, ARTIFACTS, RUNS, UPLOADS, CACHE, LOGS = 256, 384, 48, 16, 16, 128
HOST = 96  # all of a worker's host: runs, cache, logs, temporary files


def disks_of(folder: Path, state: Path, hosts: int, cached: bool) -> dict[str, tuple[Path, int]]:
    """Name -> mount point and megabytes, outer disks first. `cached`: whether workers cache uploaded datasets."""
    disks = {
        "state": (state, STATE),
        "uploads": (state / "uploads", UPLOADS),
        "logs": (folder / "logs", LOGS),
    }
    if not cached:
        disks["artifacts"] = (artifacts_of(folder, state, hosts), ARTIFACTS)
    if hosts == 1:
        disks["runs"] = (state / "runs", RUNS)
        if cached:
            disks["cache"] = (state / "cache", CACHE)
    else:
        disks |= {f"host {number}": (folder / f"host-{number}", HOST) for number in range(1, hosts + 1)}
    return disks


def artifacts_of(folder: Path, state: Path, hosts: int) -> Path:
    """The folder of the artifact store: in the state folder of the only host, or shared by several."""
    return state / "artifacts" if hosts == 1 else folder / "store"


@dataclass
class Post:
    """The settings and proxies of a worker: the next worker uses them too, after this one died."""

    number: int  # from 1
    state: Path  # the state folder of its host
    log: Path
    broker: Cable
    database: Cable | None  # None: SQLite
    store: Cable | None  # None: a folder
    environment: dict[str, str]
    part: Part | None = None
    output: str = "log"  # where the next worker's output goes: a key of faults.field.OUTPUTS
    start_at: float | None = None  # when to start the next one, by the monotonic clock, once it has ended
    seen: Any = None  # its row's last heartbeat
    seen_at: float = field(default=0.0)  # when that was new, by the monotonic clock

    @property
    def cables(self) -> Iterator[Cable]:
        yield from (cable for cable in (self.broker, self.database, self.store) if cable is not None)
