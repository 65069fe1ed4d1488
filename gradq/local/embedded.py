"""The embedded service: broker, API and one worker, supervised in the foreground until a signal comes.

One thread, one loop. The worker starts first, since its trainer server imports PyTorch, which takes longer than all the
rest. It does no more until the API answers: on two cores the import has one of them meanwhile. The API's process
migrates the database before it serves. The worker stops first, too, so that it can checkpoint its jobs and queue them
again; then API and broker stop. Parts that die are restarted with exponential backoff.

This process lives as long as the service, so it imports none of the libraries that the parts need: no SQLAlchemy, no
Redis, no HTTP client. The parts report over pipes and sockets what it waits for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from pydantic import SecretStr

from gradq import own_packages
from gradq.local import api_process, worker_process, worker_tmp
from gradq.local.broker_process import BrokerServer, embedded_broker
from gradq.local.children import Child
from gradq.local.folders import private
from gradq.local.instance import only_one
from gradq.local.listener import address_of, listen, local_address
from gradq.local.liveness import SUCCESS, AnswerWatch, HeartbeatWatch, Request
from shared import heartbeat
from shared.config import Settings
from shared.errors import GradqError

TICK_SECONDS = 0.1
START_TICK_SECONDS = 0.02
BROKER_SECONDS = 15.0
API_STOP_SECONDS, BROKER_STOP_SECONDS = 10.0, 5.0
DEATHS_BEFORE_READY = 4
SLOW_SECONDS = 30.0
ANSWER_SECONDS = 2.0
ORDER = ("broker", "api", "worker")  # a part needs those before it, and stops before they do

Say = Callable[[str], None]


class PartFailed(GradqError):
    code, title = "part_failed", "A part of the service does not start"


class MigrationFailed(GradqError):
    """`code` is that of the error in the process that migrated."""

    title = "The database was not migrated"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


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

        Raises AlreadyRunning, ConfigurationError, MigrationFailed, PartFailed.
        """
        self.settings.make_state_dir()
        with ExitStack() as stack:
            stack.enter_context(_signals_to(self.stop))
            listener = stack.enter_context(listen(host, port))
            url = address_of(listener)
            stack.enter_context(only_one(self.settings.state_dir, url))
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            stack.callback(self.end)
            self.say("starting broker and worker; the worker imports PyTorch, which takes some seconds")
            self._choose_broker()
            worker = self._start(
                "worker", worker_process.command(theirs.fileno()), self._environment(), theirs.fileno()
            )
            self._start_broker()
            self.say("preparing the database")
            self._start_api(listener)
            answers = Answers(local_address(listener))
            if self._until(answers):
                self._require_broker()
                self.say("the API answers; waiting for the worker")
            ours.shutdown(socket.SHUT_WR)  # the worker continues
            registered = Lines(lambda: ours.recv(1 << 10, socket.MSG_DONTWAIT))
            self._until(lambda: str(worker.pid) in registered.read() and answers())
            ours.close()
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
        if self.server is not None:
            self._start("broker", self.server.command, dict(os.environ))

    def _require_broker(self) -> None:
        """Returns once the broker responds, which takes it milliseconds: it was started before the API. Raises
        PartFailed after BROKER_SECONDS."""
        if (server := self.server) is None:
            return
        deadline = time.monotonic() + BROKER_SECONDS
        if self._until(lambda: server.answers() or time.monotonic() > deadline) and not server.answers():
            raise PartFailed(f"{server.binary} does not answer.\n{self.parts[0].last_lines()}")

    def _start_api(self, listener: socket.socket) -> None:
        """Starts the API's process, and returns once it has migrated the database. Raises MigrationFailed."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        report, bind = Lines(lambda: os.read(read, 1 << 16)), f"fd://{listener.fileno()}"
        try:
            command = api_process.command(self.settings, bind, report=write)
            environment = api_process.environment(self._environment())
            api = self._start("api", command, environment, listener.fileno(), write)
            self._until(lambda: bool(report.read()))
            answer = report.read()
        finally:
            os.close(read)
            os.close(write)
        api.command, api.pass_fds = api_process.command(self.settings, bind), (listener.fileno(),)  # if it is restarted
        if answer and (failure := json.loads(answer[0])):
            raise MigrationFailed(failure["code"], failure["detail"])
        self.say("starting the API")

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
            self.stop.wait(START_TICK_SECONDS)
        return False


class Answers:
    """Asks the API whether it serves, in calls that never wait; True with an answer of success."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._request: Request | None = None
        self._asked_at = 0.0

    def __call__(self) -> bool:
        if self._request is None:
            self._request, self._asked_at = Request(self._address), time.monotonic()
        answer = self._request.answer()
        if answer is None and time.monotonic() < self._asked_at + ANSWER_SECONDS:
            return False
        self._request.close()
        self._request = None
        return answer == SUCCESS


class Lines:
    """Lines that come from another process. `receive` returns some bytes, or raises BlockingIOError if none are there;
    none of them means that no more will come."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive, self._received = receive, b""

    def read(self) -> list[str]:
        """All complete lines so far."""
        with suppress(BlockingIOError):
            self._received += self._receive()
        return self._received.decode().split("\n")[:-1]


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
