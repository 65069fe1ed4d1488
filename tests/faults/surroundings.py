"""Faults of the surroundings: broker contents, network, disks, clock."""

from __future__ import annotations

import signal
from contextlib import suppress

from faults.fault import Fault
from faults.field import LEASE_SECONDS, Field, signal_all

from shared.broker import Broker, redis_url

HOUR = 3600

# --- doorbell ---------------------------------------------------------------------------------------------------------


class FlushAll(Fault):
    """everything in the broker is wiped"""

    target = "broker"

    def strike(self) -> None:
        from redis import Redis
        from redis.exceptions import RedisError

        with suppress(RedisError), Redis.from_url(redis_url(self.field.env["GRADQ_REDIS_URL"])) as redis:
            redis.flushall()


class SurplusMessages(Fault):
    """three doorbell messages arrive without a job"""

    target = "doorbell"

    def able(self) -> bool:
        return self.field.wanted["broker"]

    def strike(self) -> None:
        broker = Broker(self.field.env["GRADQ_REDIS_URL"])
        for _ in range(3):
            broker.ring()


# --- the network ------------------------------------------------------------------------------------------------------


class CutBroker(Fault):
    """a worker's connection to the broker is cut"""

    target, longest = "broker cable", 6.0

    def strike(self) -> None:
        self.post.broker.cut()

    def mend(self) -> None:
        self.post.broker.mend(reset=self.random.random() < 0.5)


class CutDatabase(Fault):
    """a worker's connection to the database is cut"""

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
    """the disk with the artifacts is full"""

    target, longest, disk = "artifacts", 4.0, "artifacts"

    @classmethod
    def fits(cls, field: Field) -> bool:
        return cls.disk in field.disks

    def strike(self) -> None:
        self.field.disks[self.disk].fill()

    def mend(self) -> None:
        self.field.disks[self.disk].free()


class FillRuns(FillArtifacts):
    """the disk with the run folders is full"""

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
    """the clock jumps an hour back, and ahead again later"""

    ahead = -HOUR


class TearCheckpoint(Fault):
    """a job's checkpoints are truncated, and the trainers killed"""

    target = "trainer"

    def able(self) -> bool:
        found = (self.field.state / "artifacts").glob("*/checkpoints/*.pt")
        self.torn = sorted({path.parent for path in found if path.parts[-3] in self.stream.open})
        return bool(self.torn) and bool(self.field.trainers())

    def strike(self) -> None:
        checkpoints = sorted(self.torn[-1].glob("*.pt")) if self.torn else []
        for path in checkpoints[self.random.randrange(2) :]:  # all, or all but one
            with suppress(FileNotFoundError), path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
        signal_all(self.field.trainers(), signal.SIGKILL)
