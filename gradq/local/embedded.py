"""The embedded service: broker, migrations, API and one worker, supervised in the foreground until a signal comes.

One thread, one loop. The worker starts first, since it imports PyTorch, which takes longer than all the rest. It does
no more until the API answers: on two cores the import has one of them meanwhile. It stops first, too, so that it can
checkpoint its jobs and queue them again; then API and broker stop. Parts that die are restarted with exponential
backoff.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pydantic import SecretStr

from gradq import own_packages
from gradq.local import api_process, worker_process, worker_tmp
from gradq.local.broker_process import BrokerServer, embedded_broker
from gradq.local.children import Child
from gradq.local.folders import private
from gradq.local.instance import only_one
from gradq.local.listener import address_of, listen, local_address
from gradq.local.liveness import AnswerWatch, HeartbeatWatch
from shared import heartbeat
from shared.config import Settings
from shared.errors import DatabaseAway, GradqError

if TYPE_CHECKING:
    from shared.db.database import Database

TICK_SECONDS = 0.1
BROKER_SECONDS = 15.0
API_STOP_SECONDS, BROKER_STOP_SECONDS = 10.0, 5.0
DEATHS_BEFORE_READY = 4
SLOW_SECONDS = 30.0
ANSWER_SECONDS = 2.0
ORDER = ("broker", "api", "worker")  # a part needs those before it, and stops before they do

Say = Callable[[str], None]


class PartFailed(GradqError):
    code, title = "part_failed", "A part of the service does not start"


class Stop:
    """Counts SIGTERM, SIGHUP and Ctrl-C: the first requests a stop, the second skips the grace periods."""

    def __init__(self) -> None:
        self.count = 0
        self._event = threading.Event()

    def note(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._event.set()

    def requested(self) -> bool:
        return self.count > 0

    def hurry(self) -> bool:
        return self.count > 1

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)


class EmbeddedService:
    """The parts that `gradq up` runs, in one state folder. `say` prints a line."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings = settings
        self.say = say
        self.stop = Stop()
        self.server: BrokerServer | None = None
        self.parts: list[Child] = []  # in ORDER
        self._trouble = ""  # what was said last about it

    def run(self, host: str, port: int) -> int:
        """Starts all parts, supervises them until a signal, stops them; returns the exit code of `gradq up`.

        Raises AlreadyRunning, ConfigurationError, PartFailed.
        """
        self.settings.make_state_dir()
        with ExitStack() as stack:
            stack.enter_context(_signals_to(self.stop))
            listener = stack.enter_context(listen(host, port))
            url = address_of(listener)
            stack.enter_context(only_one(self.settings.state_dir, url))
            waits, begins = _pipe(stack)
            stack.callback(self.end)
            self.say("starting broker and worker; the worker imports PyTorch, which takes some seconds")
            self._choose_broker()
            worker = self._start("worker", worker_process.command(waits), self._environment(), waits)
            self._start_broker()
            self.say("preparing the database")
            self._migrate()
            self.say("starting the API")
            self._start_api(listener.fileno())
            answers = self._until(lambda: _answers(url))
            os.close(begins)
            if answers:
                self._until_ready(url, worker)
            if not self.stop.requested():
                self.say(f"state   {self.settings.state_dir} (logs: {self.settings.state_dir / 'logs'})")
                self.say(f"broker  {self.server.binary if self.server else 'the one that GRADQ_REDIS_URL names'}")
                self.say(f"ready {url}")
            self._watch(listener)
            while not self.stop.wait(TICK_SECONDS):
                self._tend_or_say_why_not()
        return 0

    def end(self) -> None:
        """Stops the worker, then API and broker at the same time; no process that they started survives.

        While the worker writes checkpoints, the API answers and shows that.
        """
        grace = self.settings.grace_seconds + 10.0
        seconds = {"worker": grace, "api": API_STOP_SECONDS, "broker": BROKER_STOP_SECONDS}
        if self.parts and self.stop.requested():
            self.say("stopping: the worker checkpoints its jobs and queues them (again to hurry)")
        for part in reversed(self.parts):
            if part.name != "worker" and not part.stopping:
                self._request_stop_of_all()
            if not part.stop(seconds[part.name], self.stop.hurry):
                after = "; its jobs resume from their last checkpoint" if part.name == "worker" else ""
                self.say(f"{part.name} did not stop in time and was killed{after}")
        if self.server is not None:
            self.server.clear()
        worker_tmp.sweep(self.settings.state_dir)
        heartbeat.sweep(self.settings.state_dir)
        if self.parts and self.stop.requested():
            self.say("stopped")

    def _request_stop_of_all(self) -> None:
        if names := [part.name for part in reversed(self.parts) if part.alive and not part.stopping]:
            self.say(f"stopping {' and '.join(names)}")
        for part in self.parts:
            part.request_stop()

    def _choose_broker(self) -> None:
        self.server = embedded_broker(self.settings)
        if self.server is not None:
            self.settings = self.settings.model_copy(update={"redis_url": SecretStr(self.server.url)})

    def _start_broker(self) -> None:
        server = self.server
        if server is None:
            return
        self._start("broker", server.command, dict(os.environ))
        from shared.broker import Broker  # like the imports below, here so that the worker starts half a second earlier

        broker, deadline = Broker(server.url), time.monotonic() + BROKER_SECONDS
        while not self.stop.requested() and not broker.ping():
            self._tend()
            if time.monotonic() > deadline:
                raise PartFailed(f"{server.binary} does not answer.\n{self.parts[0].last_lines()}")
            self.stop.wait(0.02)

    def _migrate(self) -> None:
        if self.stop.requested():
            return
        from shared.db.database import Database

        with closing(Database(self.settings.database)) as database:
            database.migrate()

    def _start_api(self, socket: int) -> None:
        command = api_process.command(self.settings, f"fd://{socket}")
        self._start("api", command, api_process.environment(self._environment()), socket)

    def _start(self, name: str, command: list[str], env: dict[str, str], *pass_fds: int) -> Child:
        child = Child(name, command, env, self._log(name), pass_fds)
        if not self.stop.requested():
            child.start()
            self.parts = sorted([*self.parts, child], key=lambda part: ORDER.index(part.name))
        return child

    def _environment(self) -> dict[str, str]:
        """The environment of the parts: this process's settings, with the changes by its command line."""
        settings = self.settings
        changed = {
            "GRADQ_STATE_DIR": str(settings.state_dir),
            "GRADQ_REDIS_URL": settings.broker_url,
            "GRADQ_SLOTS": settings.slots,
            "GRADQ_THREADS_PER_SLOT": settings.threads_per_slot,
            "PYTHONUNBUFFERED": 1,
        }
        env = own_packages.environment(os.environ)
        return env | {name: str(value) for name, value in changed.items() if value is not None}

    def _log(self, name: str) -> Path:
        return private(self.settings.state_dir / "logs") / f"{name}.log"

    def _tend(self) -> None:
        for part in self.parts:
            part.tend(self.say)

    def _tend_or_say_why_not(self) -> None:
        """The parts go on whatever goes wrong here."""
        try:
            self._tend()
        except Exception as error:
            if (trouble := f"cannot look after the parts: {type(error).__name__}: {error}") != self._trouble:
                self.say(trouble)
            self._trouble = trouble
        else:
            self._trouble = ""

    def _watch(self, listener: socket.socket) -> None:
        """From now on, a part that runs but does not work is ended and started again."""
        stop_rounds = int((self.settings.grace_seconds + 10.0) / TICK_SECONDS)
        for part in self.parts:
            if part.name == "worker":
                part.liveness, part.stop_rounds = HeartbeatWatch(self.settings.state_dir), stop_rounds
            elif part.name == "api":
                part.liveness = AnswerWatch(local_address(listener))

    def _until_ready(self, url: str, worker: Child) -> None:
        """Returns once our worker is live, and the API still answers. Raises PartFailed.

        Reads the workers from the database: the API may require a token, which this process does not have.
        """
        from shared.db.database import Database

        self.say("the API answers; waiting for the worker")
        with closing(Database(self.settings.database)) as database:
            self._until(lambda: _lives(database, self.settings, worker) and _answers(url))

    def _until(self, holds: Callable[[], bool]) -> bool:
        """True once it holds, False when a stop is requested. Raises PartFailed if a part keeps dying before."""
        slow_at = time.monotonic() + SLOW_SECONDS
        while not self.stop.requested():
            if holds():
                return True
            self._tend()
            for part in self.parts:
                if part.deaths >= DEATHS_BEFORE_READY:
                    raise PartFailed(f"{part.name} keeps dying. The end of {part.log}:\n{part.last_lines()}")
            if time.monotonic() > slow_at:
                slow_at = time.monotonic() + SLOW_SECONDS
                self.say(f"still starting (logs: {self.settings.state_dir / 'logs'})")
            self.stop.wait(TICK_SECONDS)
        return False


def _answers(url: str) -> bool:
    import httpx2

    try:
        return httpx2.get(f"{url}/healthz", timeout=ANSWER_SECONDS, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def _lives(database: Database, settings: Settings, worker: Child) -> bool:
    """Whether the worker of this run has registered; a row of an earlier run does not count."""
    from shared import workers

    try:
        with database.read() as session:
            live = workers.live_workers(session, settings.lease_seconds)
    except DatabaseAway:
        return False
    return any((row.host, row.pid) == (socket.gethostname(), worker.pid) for row in live)


def _pipe(stack: ExitStack) -> tuple[int, int]:
    """The ends of a pipe. `stack` closes the one to read from: a worker that is restarted inherits it as well."""
    read, write = os.pipe()
    stack.callback(os.close, read)
    return read, write


@contextmanager
def _signals_to(stop: Stop) -> Iterator[None]:
    """Until the end of the block. A SIGHUP that was ignored from the start, as under nohup, stays ignored."""
    hangups = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    signals = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangups else []))
    before = {number: signal.signal(number, stop.note) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
