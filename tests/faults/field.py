"""The service of a campaign: gradq's real processes, set up so that faults can be applied to each.

Two workers, each with proxies of its own to broker, database and S3 store, on one host or on two with disks of their
own; small disks for each folder; one clock for all of gradq. A process that dies is started again, as by a container's
restart policy. `missing` names what this machine cannot do, `wrong` what was found wrong while faults were applied.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx2
import psutil
from faults.health import Health
from faults.places import Post, artifacts_of, disks_of
from sqlalchemy import select
from support.clock import SetClock, why_no_clock
from support.disk import SmallDisk, why_no_disks
from support.postgres import Postgres, free_port
from support.proxy import Cable, to_port, to_socket
from support.s3 import S3
from support.service import PATIENCE, Part, Service
from support.waiting import wait_for

from shared.artifacts import ArtifactStore
from shared.db.database import Database
from shared.db.tables import Worker

SLOTS = ("2", "1")  # per worker: one runs two jobs at a time, the other one
MEMORY_BYTES = 2 << 30  # of address space, for each process of a worker
LEASE_SECONDS = 4
SETTINGS = {
    "GRADQ_LEASE_SECONDS": str(LEASE_SECONDS),
    "GRADQ_RECONCILE_SECONDS": "0.5",
    "GRADQ_GRACE_SECONDS": "4",
    "GRADQ_SWEEP_SECONDS": "5",
}
PATIENCE_SECONDS = 3  # with an API that may be suspended
MARK = "FAULTS_FOLDER"  # in the environment of each of the field's processes
AGAIN_SECONDS = 1.0  # from the end of a part to the start of the next
STARTING_SECONDS = 30.0  # a part may end so soon after its start if a fault kept it from starting
SILENT_SECONDS = 60.0  # a live worker without a heartbeat for so long is lost; no fault lasts as long
SILENT_AT_START_SECONDS = 240.0  # it imports torch first, on a busy machine
HEARTBEATS_SECONDS = 2.0  # between two looks at them
EXPECTED = (0, -signal.SIGKILL, -signal.SIGTERM)  # exit codes of parts that were killed or asked to end
OUTPUTS: dict[str, Callable[[], IO[bytes]]] = {
    "full": lambda: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"),
    "broken pipe": lambda: _pipe_without_reader(),
}


class Field(Service):
    def __init__(self, folder: Path, database: str, store: str = "folder", hosts: int = 1) -> None:
        super().__init__(folder, {**SETTINGS, MARK: str(folder)})
        self.hosts, self.store_kind = hosts, store
        self.missing: dict[str, str] = {}  # what this machine cannot do -> why
        self.wrong: list[str] = []
        self.hindered_at = 0.0  # when a fault last kept parts from starting, by the monotonic clock
        self.database_away_at = 0.0  # when it was last found to be away, by the monotonic clock
        self.far = False  # whether the clock is so far ahead that kept answers look expired
        self.clock = self._set_clock()
        self.disks = self._mount_disks()
        self.postgres = Postgres().start() if database == "postgresql" else None
        self.env["GRADQ_DATABASE_URL"] = self.address()
        self.s3 = S3(folder).start() if store == "s3" else None
        if self.s3 is not None:
            self.env |= self.s3.environment
            os.environ |= self.s3.environment_through(self.s3.port)  # the audit's own access
        else:
            self.env["GRADQ_ARTIFACTS_URL"] = f"file://{artifacts_of(folder, self.state, hosts)}"
        (folder / "logs").mkdir(exist_ok=True)
        self.posts = [self._post(number, slots) for number, slots in enumerate(SLOTS, 1)]
        self.api: Part | None = None
        self.api_output = "log"
        self.api_start_at: float | None = None  # when to start it again, by the monotonic clock, once it has ended
        self.port = free_port()  # kept when the API is started again
        self.http = self.client()
        self.health = Health(self.port, folder / "health.jsonl")
        self.wanted = {"broker": True, "postgres": self.postgres is not None}  # false while a fault keeps it away
        self._closing = threading.Event()

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
        wanted = disks_of(self.folder, self.state, self.hosts, cached=self.store_kind == "s3")
        return {name: SmallDisk(path, megabytes) for name, (path, megabytes) in wanted.items()}

    def _post(self, number: int, slots: str) -> Post:
        broker = Cable(to_socket(str(self.socket)))
        environment = {"GRADQ_REDIS_URL": f"redis://127.0.0.1:{broker.port}/0", "GRADQ_SLOTS": slots}
        state, log, database, store = self.state, self.folder / "logs" / f"worker-{number}.log", None, None
        if self.hosts > 1:
            state = self.folder / f"host-{number}"
            log = state / "logs" / "worker.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            environment["GRADQ_STATE_DIR"] = str(state)
        if self.postgres is not None:
            database = Cable(to_port(self.postgres.port))
            environment["GRADQ_DATABASE_URL"] = self.postgres.url.replace(
                f":{self.postgres.port}/", f":{database.port}/"
            )
        if self.s3 is not None:
            store = Cable(to_port(self.s3.port), free_port())
            environment |= self.s3.environment_through(store.port)
        return Post(number, state, log, broker, database, store, environment)

    def client(self, seconds: float = PATIENCE_SECONDS) -> httpx2.Client:
        """A client of the API that notes answers which no fault excuses."""
        hooks: dict[str, Any] = {"response": [self._check_answer]}
        return httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=seconds, event_hooks=hooks)

    def _check_answer(self, answer: httpx2.Response) -> None:
        """An outage is answered with 503 and when to try again, or 507; never with another 5xx."""
        call = f"{answer.request.method} {answer.request.url.path}"
        if answer.status_code == 503 and "retry-after" not in answer.headers:
            self.find(f"{call} was answered 503 without Retry-After")
        elif answer.status_code >= 500 and answer.status_code not in (503, 507):
            answer.read()
            self.find(f"{call} was answered {answer.status_code}: {answer.text[:200]}")

    def find(self, wrong: str) -> None:
        """Note a violation, and print it at once: it belongs to the faults just printed."""
        print(f"           {wrong}", flush=True)
        self.wrong.append(wrong)

    def _start_part(self, arguments: list[str], env: dict[str, str], log: Path, output: str) -> Part:
        """`output`: "log", "closed" or a key of OUTPUTS."""
        clock = self.clock.environment if self.clock is not None else {}
        command = [sys.executable, "-m", "gradq", *arguments]
        if output == "closed":
            command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
        out = OUTPUTS[output]() if output in OUTPUTS else None
        part = Part(command, {**self.env, **clock, **env}, log, out)
        self.parts.append(part)
        return part

    # --- start and stop -----------------------------------------------------------------------------------------------

    def start(self, workers: int = 0) -> Field:
        self.migrate()
        self.start_broker()
        self.start_the_api()
        wait_for(self._api_answers, PATIENCE, "the API")
        for post in self.posts:
            self.start_worker_of(post)
        wait_for(lambda: len(self.live_workers()) == len(self.posts), PATIENCE, "both workers")
        threading.Thread(target=self._watch_heartbeats, name="heartbeats", daemon=True).start()
        self.health.start()
        return self

    def start_the_api(self) -> None:
        arguments = ["api", "--port", str(self.port), "--workers", "1"]
        self.api = self._start_part(arguments, {}, self.folder / "logs" / "api.log", self.api_output)
        self.api_start_at = None

    def start_worker_of(self, post: Post) -> None:
        part = self._start_part(["worker"], post.environment, post.log, post.output)
        part.handle.rlimit(psutil.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        post.part, post.start_at = part, None

    def tend(self) -> None:
        """Start again the processes that died, except those that a fault keeps away."""
        now = time.monotonic()
        for post in self.posts:
            if post.part is None or post.part.alive:
                continue
            if post.start_at is None:
                self._check_end(f"worker {post.number}", post.part)
                post.start_at = now + AGAIN_SECONDS
            elif now >= post.start_at:
                self._try(partial(self.start_worker_of, post))
        if self.api is not None and not self.api.alive:
            if self.api_start_at is None:
                self._check_end("the API", self.api)
                self.api_start_at = now + AGAIN_SECONDS
            elif now >= self.api_start_at:
                self._try(self.start_the_api)
        if self.wanted["broker"] and self.broker is not None and not self.broker.alive:
            self.start_broker(wait=False)
        if self.wanted["postgres"] and self.postgres is not None and not self.postgres.alive:
            self.postgres.start()

    def _try(self, start: Callable[[], None]) -> None:
        with suppress(psutil.NoSuchProcess, OSError):  # it ended at once, or its log's disk is full: try again
            start()

    def _check_end(self, name: str, part: Part) -> None:
        """A part must not end by itself, except at its start, when a fault keeps it from starting."""
        code = part.process.returncode
        hindered = self.hindered_at >= part.began and time.monotonic() - part.began < STARTING_SECONDS
        if code not in EXPECTED and not hindered:
            last = part.said().strip().splitlines()[-1:] or ["it wrote no line"]
            self.find(f"{name} ended by itself with exit code {code}: {last[0][:300]}")

    def _watch_heartbeats(self) -> None:
        """A worker whose process lives must write heartbeats: one that does not is found, and killed."""
        database = Database(self.address())
        while not self._closing.wait(HEARTBEATS_SECONDS):
            try:
                with database.read() as session:
                    rows = dict(session.execute(select(Worker.pid, Worker.seen_at)).tuples().all())
            except Exception:  # the database is away: no worker can write
                self.database_away_at = time.monotonic()
                continue
            for post in self.posts:
                if post.part is not None and post.part.alive:
                    self._check_heartbeat(post, post.part, rows.get(post.part.process.pid))
        database.close()

    def _check_heartbeat(self, post: Post, part: Part, seen: Any) -> None:
        longest = SILENT_SECONDS if post.seen_at > part.began else SILENT_AT_START_SECONDS
        if seen is not None and seen != post.seen:
            post.seen, post.seen_at = seen, time.monotonic()
        elif time.monotonic() - max(post.seen_at, part.began, self.database_away_at) > longest:
            self.find(f"worker {post.number} lives, but has written no heartbeat for {longest:g} s")
            part.send(signal.SIGKILL)

    def close(self) -> None:
        self._closing.set()
        try:
            for disk in self.disks.values():
                disk.free()
            self.health.close()
            super().close()
            self.http.close()
        finally:
            self._keep_logs()
            for disk in reversed(self.disks.values()):
                disk.unmount()
            for post in self.posts:
                for cable in post.cables:
                    cable.close()
            if self.postgres is not None:
                self.postgres.close()
            if self.s3 is not None:
                self.s3.close()

    def _keep_logs(self) -> None:
        """Copy the logs from the small disks, which disappear."""
        kept = self.folder / "kept"
        kept.mkdir(exist_ok=True)
        for log in [self.folder / "logs" / "api.log", *(post.log for post in self.posts)]:
            if log.exists():
                shutil.copy(log, kept / f"{log.parent.parent.name}-{log.name}" if self.hosts > 1 else kept / log.name)

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
                if process.environ().get(MARK) == str(self.folder):
                    found.append(process)
        return found

    def worker_of(self, worker_id: str) -> Part | None:
        """The worker with this id, `host-pid-…`, if it is alive."""
        pid = int(worker_id.rsplit("-", 2)[1])
        return next((p.part for p in self.posts if p.part and p.part.process.pid == pid and p.part.alive), None)

    def store(self) -> ArtifactStore:
        """The artifact store without a proxy, for the campaign itself, with nothing cached of earlier calls."""
        store = ArtifactStore(self.s3.url if self.s3 is not None else self.env["GRADQ_ARTIFACTS_URL"])
        store.fs.invalidate_cache()
        return store

    @property
    def states(self) -> list[Path]:
        """The state folders of all hosts."""
        return list(dict.fromkeys([self.state, *(post.state for post in self.posts)]))

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


def _pipe_without_reader() -> IO[bytes]:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "wb")


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
