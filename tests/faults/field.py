"""The service of a campaign: gradq's real processes, set up so that faults can be applied to each.

Two workers, each with proxies of its own to broker and database; small disks for artifacts and run folders; one clock
for all of gradq. A process that dies is started again, as by a container's restart policy. `missing` names what this
machine cannot do.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
from support.clock import SetClock, why_no_clock
from support.disk import SmallDisk, why_no_disks
from support.postgres import Postgres, free_port
from support.proxy import Cable, to_port, to_socket
from support.service import Part, Service
from support.waiting import wait_for

SLOTS = ("2", "1")  # per worker: one runs two jobs at a time, the other one
MEMORY_BYTES = 2 << 30  # of address space, for each process of a worker
DISKS = {"artifacts": 256, "runs": 48}  # megabytes: for the files of some hundred jobs, and of the running ones
LEASE_SECONDS = 4
SETTINGS = {"GRADQ_LEASE_SECONDS": str(LEASE_SECONDS), "GRADQ_RECONCILE_SECONDS": "0.5", "GRADQ_GRACE_SECONDS": "4"}
PATIENCE_SECONDS = 3  # with an API that may be suspended


class Post:
    """The settings and proxies of a worker: the next worker uses them too, after this one died."""

    def __init__(self, slots: str, broker: Cable, database: Cable | None, environment: dict[str, str]) -> None:
        self.broker, self.database = broker, database
        self.environment = {**environment, "GRADQ_SLOTS": slots}
        self.part: Part | None = None

    @property
    def cables(self) -> Iterator[Cable]:
        yield self.broker
        if self.database is not None:
            yield self.database


class Field(Service):
    def __init__(self, folder: Path, database: str) -> None:
        super().__init__(folder, SETTINGS)
        self.missing: dict[str, str] = {}  # what this machine cannot do -> why
        self.postgres = Postgres().start() if database == "postgresql" else None
        if self.postgres is not None:
            self.env["GRADQ_DATABASE_URL"] = self.postgres.url
        self.clock = self._set_clock()
        self.disks = self._mount_disks()
        self.posts = [self._post(slots) for slots in SLOTS]
        self.api: Part | None = None
        self.port = free_port()  # kept when the API is started again
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_SECONDS)
        self.wanted = {"broker": True, "postgres": self.postgres is not None}  # false while a fault keeps it away

    # --- parts --------------------------------------------------------------------------------------------------------

    def _set_clock(self) -> SetClock | None:
        if (why := why_no_clock()) is not None:
            self.missing["a clock that jumps"] = why
            return None
        return SetClock(self.folder)

    def _mount_disks(self) -> dict[str, SmallDisk]:
        if (why := why_no_disks()) is not None:
            self.missing["disks that fill up"] = why
            return {}
        return {name: SmallDisk(self.state / name, megabytes) for name, megabytes in DISKS.items()}

    def _post(self, slots: str) -> Post:
        broker = Cable(to_socket(str(self.socket)))
        environment = {"GRADQ_REDIS_URL": f"redis://127.0.0.1:{broker.port}/0"}
        database = None
        if self.postgres is not None:
            database = Cable(to_port(self.postgres.port))
            environment["GRADQ_DATABASE_URL"] = self.postgres.url.replace(
                f":{self.postgres.port}/", f":{database.port}/"
            )
        return Post(slots, broker, database, environment)

    def _gradq(self, *arguments: str, env: dict[str, str] | None = None) -> Part:
        clock = self.clock.environment if self.clock is not None else {}
        return super()._gradq(*arguments, env={**clock, **(env or {})})

    # --- start and stop -----------------------------------------------------------------------------------------------

    def start(self, workers: int = 0) -> Field:
        self.migrate()
        self.start_broker()
        self.api = self._gradq("api", "--port", str(self.port), "--workers", "1")
        wait_for(self._api_answers, 60, "the API")
        for post in self.posts:
            self.start_worker_of(post)
        wait_for(lambda: len(self.live_workers()) == len(self.posts), 60, "both workers")
        return self

    def start_worker_of(self, post: Post) -> None:
        post.part = self._gradq("worker", env=post.environment)
        post.part.handle.rlimit(psutil.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def tend(self) -> None:
        """Start again the processes that died, except those that a fault keeps away."""
        for post in self.posts:
            if post.part is not None and not post.part.alive:
                self.start_worker_of(post)
        if self.api is not None and not self.api.alive:
            self.api = self._gradq("api", "--port", str(self.port), "--workers", "1")
        if self.wanted["broker"] and self.broker is not None and not self.broker.alive:
            self.start_broker(wait=False)
        if self.wanted["postgres"] and self.postgres is not None and not self.postgres.alive:
            self.postgres.start()

    def close(self) -> None:
        try:
            for disk in self.disks.values():
                disk.free()
            super().close()
            self.http.close()
        finally:
            for disk in self.disks.values():
                disk.unmount()
            for post in self.posts:
                for cable in post.cables:
                    cable.close()
            if self.postgres is not None:
                self.postgres.close()

    # --- processes ----------------------------------------------------------------------------------------------------

    def server(self, post: Post) -> psutil.Process | None:
        """The server that this worker's trainers are forked from; None if there is none."""
        with suppress(psutil.NoSuchProcess):
            if post.part is not None:
                return next((p for p in post.part.handle.children() if _is_forked(p) and not _leads(p)), None)
        return None

    def trainers(self) -> list[psutil.Process]:
        """The trainer processes, also those whose server or worker is dead."""
        return [process for process in self.processes() if _is_forked(process) and _leads(process)]

    def processes(self) -> list[psutil.Process]:
        """Every live process with this field's settings in its environment."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get("GRADQ_STATE_DIR") == str(self.state):
                    found.append(process)
        return found

    def worker_of(self, worker_id: str) -> Part | None:
        """The worker with this id, `host-pid-…`, if it is alive."""
        pid = int(worker_id.rsplit("-", 2)[1])
        return next((p.part for p in self.posts if p.part and p.part.process.pid == pid and p.part.alive), None)

    def address(self) -> str:
        """The database's URL without a proxy, for the campaign itself."""
        return self.postgres.url if self.postgres is not None else f"sqlite:///{self.state / 'gradq.db'}"


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def words_of(process: psutil.Process) -> list[str]:
    """The command line; empty if the process is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _is_forked(process: psutil.Process) -> bool:
    return any("multiprocessing.forkserver" in word for word in words_of(process))


def _leads(process: psutil.Process) -> bool:
    """Whether the process leads a session: a trainer does, the server does not."""
    try:
        return os.getsid(process.pid) == process.pid
    except ProcessLookupError:
        return False


def state_of(field: Field, job_id: str) -> dict[str, Any] | None:
    """The job from the API; None while the API does not respond."""
    try:
        return field.job(job_id)
    except (httpx2.TransportError, AssertionError):
        return None
