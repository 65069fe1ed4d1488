"""Processes that die, and processes that are stopped and wake up."""

from __future__ import annotations

import signal
from random import Random

import psutil
from faults.fault import Fault, WhileTraining
from faults.field import LEASE_SECONDS, Field, signal_all
from faults.stream import Stream

# --- that die ---------------------------------------------------------------------------------------------------------


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

    target, longest = "postgres", 4.0

    @classmethod
    def fits(cls, field: Field) -> bool:
        return field.postgres is not None

    def strike(self) -> None:
        assert self.field.postgres is not None
        self.field.wanted["postgres"] = False
        self.field.postgres.kill()

    def mend(self) -> None:
        self.field.wanted["postgres"] = True


# --- that are stopped, and wake up ------------------------------------------------------------------------------------


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
    """a trainer is stopped"""

    target = "trainer"

    def victims(self) -> list[psutil.Process]:
        trainers = self.field.trainers()
        return [self.random.choice(trainers)] if trainers else []


class StopServer(Stop):
    """the server of the trainers is stopped"""

    target = "server"

    def victims(self) -> list[psutil.Process]:
        return [server] if (server := self.field.server(self.post)) else []


class StopWorker(Stop):
    """a worker is stopped for a moment"""

    target = "worker"

    def victims(self) -> list[psutil.Process]:
        assert self.post.part is not None
        return [self.post.part.handle]


class StopWorkerPastItsLease(StopWorker):
    """a worker is stopped until its jobs are another's"""

    longest = 3 * LEASE_SECONDS

    def __init__(self, field: Field, stream: Stream, random: Random) -> None:
        super().__init__(field, stream, random)
        self.seconds = random.uniform(LEASE_SECONDS + 1, LEASE_SECONDS + 4)


class StopApi(Stop):
    """the API is stopped"""

    target = "api"

    def victims(self) -> list[psutil.Process]:
        assert self.field.api is not None
        return self.field.api.family()


class StopBroker(Stop):
    """the broker is stopped"""

    target, longest = "broker", 6.0

    def victims(self) -> list[psutil.Process]:
        assert self.field.broker is not None
        return self.field.broker.family()


class StopPostgres(Stop):
    """PostgreSQL is stopped"""

    target, longest = "postgres", 6.0

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
