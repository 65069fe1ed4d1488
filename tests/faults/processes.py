"""Faults of processes: killed, suspended and resumed, or started with an output that takes nothing."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from random import Random
from typing import ClassVar

import httpx2
import psutil
from faults.fault import Fault, WhileTraining
from faults.field import LEASE_SECONDS, Field, signal_all
from faults.stream import Stream

SERVES_SECONDS = 60.0  # from the request to end to the next part's first answer or heartbeat, on a busy machine
SERVING_SECONDS = 3.0

# --- killed -----------------------------------------------------------------------------------------------------------


class KillTrainer(WhileTraining):
    """a trainer is killed"""

    target = "trainer"

    def strike(self) -> None:
        if trainers := self.field.trainers():
            signal_all([self.random.choice(trainers)], signal.SIGKILL)


class KillServer(WhileTraining):
    """the server of the trainers is killed"""

    target = "server"

    def strike(self) -> None:
        if server := self.field.server(self.post):
            signal_all([server], signal.SIGKILL)


class KillWorker(WhileTraining):
    """a worker is killed"""

    target = "worker"

    def strike(self) -> None:
        assert self.post.part is not None
        self.post.part.send(signal.SIGKILL)


class DrainWorker(WhileTraining):
    """a worker is asked to end, and another takes its place"""

    target = "worker"

    def strike(self) -> None:
        assert self.post.part is not None
        self.post.part.send(signal.SIGTERM)


class KillApi(Fault):
    """the API is killed"""

    target = "api"

    def strike(self) -> None:
        assert self.field.api is not None
        signal_all(self.field.api.family(), signal.SIGKILL)


class KillBroker(Fault):
    """the broker is killed and stays away"""

    target, longest = "broker", 8.0

    def strike(self) -> None:
        assert self.field.broker is not None
        self.field.wanted["broker"] = False
        self.field.broker.kill()

    def mend(self) -> None:
        self.field.wanted["broker"] = True


class KillPostgres(Fault):
    """PostgreSQL is killed and stays away"""

    target, longest, hinders = "postgres", 4.0, True

    @classmethod
    def fits(cls, field: Field) -> bool:
        return field.postgres is not None

    def strike(self) -> None:
        assert self.field.postgres is not None
        self.field.wanted["postgres"] = False
        self.field.postgres.kill()

    def mend(self) -> None:
        self.field.wanted["postgres"] = True


# --- suspended and resumed --------------------------------------------------------------------------------------------


class Stop(WhileTraining):
    longest = 2.0

    def victims(self) -> list[psutil.Process]:
        raise NotImplementedError

    def strike(self) -> None:
        self.stopped = self.victims()
        signal_all(self.stopped, signal.SIGSTOP)

    def mend(self) -> None:
        signal_all(self.stopped, signal.SIGCONT)


class StopTrainer(Stop):
    """a trainer is suspended"""

    target = "trainer"

    def victims(self) -> list[psutil.Process]:
        trainers = self.field.trainers()
        return [self.random.choice(trainers)] if trainers else []


class StopServer(Stop):
    """the server of the trainers is suspended"""

    target = "server"

    def victims(self) -> list[psutil.Process]:
        return [server] if (server := self.field.server(self.post)) else []


class StopWorker(Stop):
    """a worker is suspended for a moment"""

    target = "worker"

    def victims(self) -> list[psutil.Process]:
        assert self.post.part is not None
        return [self.post.part.handle]


class StopWorkerPastItsLease(StopWorker):
    """a worker is suspended until another owns its jobs"""

    longest = 3 * LEASE_SECONDS

    def __init__(self, field: Field, stream: Stream, random: Random) -> None:
        super().__init__(field, stream, random)
        self.seconds = random.uniform(LEASE_SECONDS + 1, LEASE_SECONDS + 4)


class StopApi(Stop):
    """the API is suspended"""

    target = "api"

    def victims(self) -> list[psutil.Process]:
        assert self.field.api is not None
        return self.field.api.family()


class StopBroker(Stop):
    """the broker is suspended"""

    target, longest = "broker", 6.0

    def victims(self) -> list[psutil.Process]:
        assert self.field.broker is not None
        return self.field.broker.family()


class StopPostgres(Stop):
    """PostgreSQL is suspended"""

    target, longest, hinders = "postgres", 6.0, True

    @classmethod
    def fits(cls, field: Field) -> bool:
        return field.postgres is not None

    def victims(self) -> list[psutil.Process]:
        assert self.field.postgres is not None
        process = self.field.postgres.process
        if process is None or not self.field.postgres.alive:
            return []
        main = psutil.Process(process.pid)
        return [main, *main.children(recursive=True)]


# --- their output takes nothing ---------------------------------------------------------------------------------------


class LoseOutput(Fault):
    """Of a worker: it is asked to end, and the next one has such an output, until it is asked to end too."""

    target, longest = "worker", 8.0
    output: ClassVar[str]
    serves_at: float | None = None  # when it was first seen to serve

    def strike(self) -> None:
        self.latest = time.monotonic() + SERVES_SECONDS
        self.switch(self.output)

    def mend(self) -> None:
        self.switch("log")

    def switch(self, output: str) -> None:
        self.post.output = output
        if self.post.part is not None:
            self.before = self.post.part
            self.before.send(signal.SIGTERM)

    def serves(self) -> bool:
        """Whether the part that was started with this output does its work."""
        part = self.post.part
        if part is None or part is self.before:
            return False
        return part.process.pid in {worker["pid"] for worker in self.field.live_workers()}

    def done(self) -> bool:
        """Once the part has served for some seconds; or in vain, which is a violation."""
        now = time.monotonic()
        if self.serves_at is None and now > self.latest:
            self.field.find(f"{self.name}: it does not serve within {SERVES_SECONDS:g} s")
            return True
        return self.serves_at is not None and now > self.serves_at + SERVING_SECONDS

    def look(self) -> None:
        if self.serves_at is None:
            with suppress(httpx2.TransportError, KeyError, ValueError):
                if self.serves():
                    self.serves_at = time.monotonic()


class WorkerWithFullOutput(LoseOutput):
    """a worker's output goes to a full device"""

    output = "full"


class WorkerWithClosedOutput(LoseOutput):
    """a worker's output is closed"""

    output = "closed"


class WorkerWithBrokenPipe(LoseOutput):
    """a worker's output goes to a pipe that nobody reads"""

    output = "broken pipe"


class ApiWithFullOutput(LoseOutput):
    """the API's output goes to a full device"""

    target, output = "api", "full"

    def switch(self, output: str) -> None:
        self.field.api_output = output
        if self.field.api is not None:
            self.before = self.field.api
            self.before.send(signal.SIGTERM)

    def serves(self) -> bool:
        return self.field.api not in (None, self.before) and self.field.http.get("/healthz").status_code == 200


class ApiWithClosedOutput(ApiWithFullOutput):
    """the API's output is closed"""

    output = "closed"


class ApiWithBrokenPipe(ApiWithFullOutput):
    """the API's output goes to a pipe that nobody reads"""

    output = "broken pipe"
