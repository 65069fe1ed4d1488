"""What can go wrong, one class each: `strike` does it, `mend` undoes it, `seconds` lie in between.

A fault's `target` is struck by one fault at a time. `fits` says where a fault can be made.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

import psutil
from faults.field import Field, Post, signal_all, state_of
from faults.stream import Stream

from shared.broker import Broker, redis_url

LEASE_SECONDS = 4.0  # of a field
HOUR = 3600


class Fault:
    target: ClassVar[str] = ""
    longest: ClassVar[float] = 0.0  # seconds between strike and mend; 0: there is nothing to mend

    def __init__(self, field: Field, stream: Stream, random: Random) -> None:
        self.field, self.stream, self.random = field, stream, random
        self.seconds = random.uniform(self.longest / 4, self.longest)
        self.number = random.randrange(len(field.posts))

    @classmethod
    def fits(cls, field: Field) -> bool:
        return True

    @property
    def name(self) -> str:
        return type(self).__doc__ or type(self).__name__

    @property
    def post(self) -> Post:
        return self.field.posts[self.number]

    def able(self) -> bool:
        """Whether there is something to strike; else it waits for a while."""
        return True

    def strike(self) -> None:
        raise NotImplementedError

    def mend(self) -> None:
        pass

    def done(self) -> bool:
        """Whether it may be mended now, once its seconds are over."""
        return True


class WhileTraining(Fault):
    def able(self) -> bool:
        return bool(self.field.trainers())


# --- processes that die -----------------------------------------------------------------------------------------------


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


# --- processes that are stopped, and wake up --------------------------------------------------------------------------


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
        return [(main := psutil.Process(process.pid)), *main.children(recursive=True)]


# --- the bell ---------------------------------------------------------------------------------------------------------


class FlushAll(Fault):
    """everything in the broker is wiped"""

    target = "broker"

    def strike(self) -> None:
        from redis import Redis
        from redis.exceptions import RedisError

        with suppress(RedisError), Redis.from_url(redis_url(self.field.env["GRADQ_REDIS_URL"])) as redis:
            redis.flushall()


class RingThrice(Fault):
    """the bell rings three times for nothing"""

    target = "bell"

    def able(self) -> bool:
        return self.field.wanted["broker"]

    def strike(self) -> None:
        broker = Broker(self.field.env["GRADQ_REDIS_URL"])
        for _ in range(3):
            broker.ring()


# --- the network ------------------------------------------------------------------------------------------------------


class CutBroker(Fault):
    """a worker's way to the broker is cut"""

    target, longest = "broker cable", 6.0

    def strike(self) -> None:
        self.post.broker.cut()

    def mend(self) -> None:
        self.post.broker.mend(reset=self.random.random() < 0.5)


class CutDatabase(Fault):
    """a worker's way to the database is cut"""

    target, longest = "database cable", 2 * LEASE_SECONDS

    @classmethod
    def fits(cls, field: Field) -> bool:
        return field.postgres is not None

    def strike(self) -> None:
        assert self.post.database is not None
        self.post.database.cut()

    def mend(self) -> None:
        assert self.post.database is not None
        self.post.database.mend(reset=self.random.random() < 0.5)


# --- disks and clocks -------------------------------------------------------------------------------------------------


class FillArtifacts(Fault):
    """the disk of the artifacts is full"""

    target, longest, disk = "artifacts", 4.0, "artifacts"

    @classmethod
    def fits(cls, field: Field) -> bool:
        return cls.disk in field.disks

    def strike(self) -> None:
        self.field.disks[self.disk].fill()

    def mend(self) -> None:
        self.field.disks[self.disk].free()


class FillRuns(FillArtifacts):
    """the disk of the run folders is full"""

    target = disk = "runs"


class SetClockForward(Fault):
    """the clock jumps an hour ahead, and back again later"""

    target, longest, ahead = "clock", 6.0, HOUR

    @classmethod
    def fits(cls, field: Field) -> bool:
        return field.clock is not None

    def strike(self) -> None:
        assert self.field.clock is not None
        self.field.clock.set(self.ahead)

    def mend(self) -> None:
        assert self.field.clock is not None
        self.field.clock.set(0)


class SetClockBack(SetClockForward):
    """the clock is put back an hour, and forward again later"""

    ahead = -HOUR


class TearCheckpoint(Fault):
    """a job's checkpoints are torn, and its trainer killed"""

    target = "trainer"

    def able(self) -> bool:
        found = (self.field.state / "artifacts").glob("*/checkpoints/*.pt")
        self.torn = sorted({path.parent for path in found if path.parts[-3] in self.stream.open})
        return bool(self.torn) and bool(self.field.trainers())

    def strike(self) -> None:
        for path in sorted(self.torn[-1].glob("*.pt"))[self.random.randrange(2) :]:  # all of them, or all but one
            with suppress(FileNotFoundError), path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
        signal_all(self.field.trainers(), signal.SIGKILL)


# --- jobs that do harm ------------------------------------------------------------------------------------------------


class BadJob(Fault):
    """Submitted until the API takes it."""

    code: ClassVar[str]
    spec: ClassVar[dict[str, Any]]

    def strike(self) -> None:
        self.job_id = self.stream.submit_to_fail(self.code, **self.spec)

    def done(self) -> bool:
        if self.job_id is None:
            self.strike()
        return self.job_id is not None


class Hog(BadJob):
    """a job wants more memory than there is"""

    target, code = "hog", "out_of_memory_host"
    spec: ClassVar = {"architecture": {"type": "mlp", "hidden": [16_384] * 16}, "epochs": 1, "max_attempts": 20}


class Poison(BadJob):
    """a job kills its worker each time"""

    target, code = "poison", "too_many_attempts"
    spec: ClassVar = {"architecture": "linear", "epochs": 10_000, "batch_size": 16, "priority": 100, "max_attempts": 2}
    killed = 0

    def done(self) -> bool:
        if not super().done() or (job := state_of(self.field, str(self.job_id))) is None:
            return False
        if job["status"] == "running" and job["attempt"] > self.killed:
            if (worker := self.field.worker_of(job["attempts"][-1]["worker"])) is not None:
                worker.send(signal.SIGKILL)
            self.killed = job["attempt"]
        return bool(job["terminal"])


FAMILIES = (Fault, WhileTraining, Stop, BadJob)  # and no faults themselves


def _all(cls: type[Fault]) -> list[type[Fault]]:
    below = [found for child in cls.__subclasses__() for found in _all(child)]
    return below if cls in FAMILIES else [cls, *below]


ALL = _all(Fault)
