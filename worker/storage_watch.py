"""Whether this worker can store anything: the artifact store, and the disks of its folders.

A supervisor that meets an outage reports it. The worker then claims no job until a probe of all has succeeded, so that
an outage does not end one queued job after the other; running jobs continue.
"""

from __future__ import annotations

import errno
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import structlog

from shared.artifacts import PROBE_BYTES, ArtifactStore
from shared.errors import StoreUnavailable
from shared.maintenance import MaintenanceThread
from worker.pauses import FIRST_PAUSE_SECONDS, GrowingPauses

Outage = Literal["store_unavailable", "disk_full"]

FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)

log = structlog.get_logger()


class StorageWatch:
    """`outage` is None while nothing is known to be wrong. `probe` is called by the thread of `StorageProber`.

    `runs`: the run folders. `cache`: a folder that is probed too if it exists.
    """

    def __init__(self, store: ArtifactStore, runs: Path, cache: Path | None = None) -> None:
        self.store, self.runs, self.cache = store, runs, cache
        self.outage: Outage | None = None
        self.reported = threading.Event()
        self._lock = threading.Lock()
        self._folders: set[Path] = set()  # others that took no files
        self._pauses = GrowingPauses()  # a probe is small: what a job stores may fail again

    def report(self, outage: Outage, detail: str, folder: Path | None = None) -> None:
        """Note that something could not be stored. `folder`: one that took no file, to be probed beside the others."""
        with self._lock:
            if folder is not None:
                self._folders.add(folder)
            self._pauses.failed()
            first, self.outage = self.outage is None, outage
            self.reported.set()
        if first:
            log.warning("no job is claimed until a probe succeeds", outage=outage, error=detail)

    def next_pause(self) -> float:
        """Seconds to wait before the next probe; they grow."""
        with self._lock:
            return self._pauses.next()

    def probe(self) -> bool:
        """Write to all places. Returns whether all took it, and ends the outage then."""
        self.reported.clear()
        try:
            self.store.probe()
            _probe(self.runs)
            if self.cache is not None and self.cache.is_dir():
                _probe(self.cache)
            self._probe_reported()
        except StoreUnavailable as error:
            self.report("store_unavailable", error.detail)
        except OSError as error:
            self.report("disk_full", str(error))
        else:
            with self._lock:
                if not self.reported.is_set():
                    self.outage = None
        return self.outage is None

    def _probe_reported(self) -> None:
        """Write to each folder that was reported, and forget those that take files again. A folder that may not be
        written is forgotten too: the datasets' may be read-only on purpose, and must not keep other jobs waiting."""
        with self._lock:
            folders = list(self._folders)
        for folder in folders:
            try:
                _probe(folder)
            except OSError as error:
                if error.errno not in FORBIDDEN:
                    raise
            with self._lock:
                self._folders.discard(folder)


def _probe(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".probe-{secrets.token_hex(4)}"
    try:
        path.write_bytes(bytes(PROBE_BYTES))
    finally:
        path.unlink(missing_ok=True)


class StorageProber(MaintenanceThread):
    """Probes while there is an outage, in a thread of its own: a store that is away may take a minute to fail.
    `recovered` is called when the outage is over."""

    def __init__(self, watch: StorageWatch, recovered: Callable[[], None]) -> None:
        super().__init__("storage-prober", pause=FIRST_PAUSE_SECONDS)
        self.watch, self.recovered = watch, recovered

    def round(self) -> float:
        """Wait for an outage and probe once."""
        self.watch.reported.wait()
        if not self.stopped.wait(self.watch.next_pause()) and self.watch.probe():
            log.info("the store and the disk take files again")
            self.recovered()
        return 0.0

    def failed(self, error: Exception) -> float:
        """The next probe may succeed."""
        log.error("storage probe failed", exc_info=error)
        self.watch.reported.set()
        return self.pause

    def stop(self) -> None:
        self.stopped.set()
        self.watch.reported.set()
