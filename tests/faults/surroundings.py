"""Faults of the surroundings: broker contents, network, disks, clock, the database's revision."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import ClassVar

import httpx2
from faults.fault import Fault
from faults.field import LEASE_SECONDS, Field, signal_all
from faults.stream import Stream
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import select, text
from support.disk import SmallDisk

from shared.broker import QUEUE, Broker, redis_url
from shared.db.database import Database
from shared.db.migrate import VERSION_TABLE
from shared.db.tables import Attempt
from shared.errors import DatabaseAway

HOUR, DAY = 3600, 86_400
FOREIGN_REVISION = "9999"
NOTICED_SECONDS = 5.0  # in which API and workers notice a revision that is not theirs
GARBAGE = (
    *(
        b"",
        b"\x00\xff\xfe",
        b"no JSON",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b'{"body": 1}',
        b'{"body": "e30=", "headers": []}',
    ),
    b'{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json",'
    b' "headers": {"task": "other.task"}}',
    b'{"body": "gAR9lC4=", "content-encoding": "binary", "content-type": "application/x-python-serialize", "headers":'
    b' {"task": "worker.tasks.doorbell"}, "properties": {"body_encoding": "base64", "delivery_info": {}}}',
)

# --- broker and doorbell ----------------------------------------------------------------------------------------------


class FlushAll(Fault):
    """everything in the broker is wiped"""

    target = "broker"

    def strike(self) -> None:
        with suppress(RedisError), broker_of(self.field) as redis:
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


class ForeignMessages(SurplusMessages):
    """messages that are not the doorbell's arrive, and bytes that are no messages"""

    def strike(self) -> None:
        with suppress(RedisError), broker_of(self.field) as redis:
            for message in self.random.sample(GARBAGE, len(GARBAGE)):
                redis.lpush(QUEUE, message)


class BrokerFault(Fault):
    """`commands` sets it, `undo` mends it; repeated until the broker takes it."""

    target, longest = "broker", 8.0
    commands: ClassVar[tuple[tuple[str, ...], ...]]
    undo: ClassVar[tuple[str, ...]]

    def able(self) -> bool:
        return self.field.broker is not None and self.field.broker.alive

    def strike(self) -> None:
        with suppress(RedisError), broker_of(self.field) as redis:
            for command in self.commands:
                redis.execute_command(*command)

    def done(self) -> bool:
        try:
            with broker_of(self.field) as redis:
                redis.execute_command(*self.undo)
        except RedisError:
            return False
        return True


class BrokerIsReadOnly(BrokerFault):
    """the broker becomes the replica of one that is away"""

    commands = (("REPLICAOF", "127.0.0.1", "1"),)
    undo = ("REPLICAOF", "NO", "ONE")


class BrokerHasAnotherType(BrokerFault):
    """the queue's key has a text"""

    commands = (("DEL", QUEUE), ("SET", QUEUE, "another program's"))
    undo = ("DEL", QUEUE)


def broker_of(field: Field) -> Redis:
    return Redis.from_url(redis_url(field.env["GRADQ_REDIS_URL"]), socket_timeout=2.0)


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

    target, longest, hinders = "database cable", 2 * LEASE_SECONDS, True

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
        self.small_disk().fill()

    def mend(self) -> None:
        self.small_disk().free()

    def small_disk(self) -> SmallDisk:
        return self.field.disks[self.disk]


class FillRuns(FillArtifacts):
    """the disk with the run folders is full"""

    target = disk = "runs"


class FillState(FillArtifacts):
    """the disk with the state folder, and SQLite's database, is full"""

    target = disk = "state"
    hinders = True


class FillUploads(FillArtifacts):
    """the disk with the uploads is full"""

    target = disk = "uploads"


class FillCache(FillArtifacts):
    """the disk with the cached datasets is full"""

    target = disk = "cache"


class FillLogs(FillArtifacts):
    """the disk with the logs is full"""

    target = disk = "logs"


class FillHost(FillArtifacts):
    """the disk of a worker's host is full"""

    target, hinders = "host", True

    @classmethod
    def fits(cls, field: Field) -> bool:
        return "host 1" in field.disks

    def small_disk(self) -> SmallDisk:
        return self.field.disks[f"host {self.post.number}"]


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


class SetClockFarAhead(SetClockForward):
    """the clock jumps 400 days ahead for some seconds"""

    longest, ahead = 4.0, 400 * DAY

    def strike(self) -> None:
        self.field.far = True
        super().strike()

    def mend(self) -> None:
        super().mend()
        self.field.far = False


# --- the database's revision ------------------------------------------------------------------------------------------


class SkewSchema(Fault):
    """the database is at a revision that this version does not know"""

    target, hinders = "postgres", True  # not while it is away

    def __init__(self, field: Field, stream: Stream, random: Random) -> None:
        super().__init__(field, stream, random)
        self.seconds = NOTICED_SECONDS + random.uniform(3, 6)
        self.old: str | None = None  # the revision; None: not changed
        self.claimed: set[tuple[str, int]] | None = None  # the attempts when the parts should have noticed
        self.new: set[tuple[str, int]] = set()
        self.ready = 0  # answers of the API since then

    def strike(self) -> None:
        self.database = Database(self.field.address())
        self.noticed_at = time.monotonic() + NOTICED_SECONDS
        with suppress(DatabaseAway):
            self.old = self._swap(FOREIGN_REVISION)

    def look(self) -> None:
        if self.old is None or time.monotonic() < self.noticed_at:
            return
        with suppress(DatabaseAway):
            attempts = self._attempts()
            self.claimed = self.claimed or attempts
            self.new |= attempts - self.claimed
        with suppress(httpx2.TransportError, ValueError):
            self.ready += self.field.http.get("/readyz").json().get("ready", False)

    def done(self) -> bool:
        try:
            if self.old is not None:
                self._swap(self.old)
        except DatabaseAway:
            return False
        return True

    def mend(self) -> None:
        if self.new:
            self.field.find(f"{self.name}, but workers claimed {sorted(self.new)}")
        if self.ready:
            self.field.find(f"{self.name}, but the API said {self.ready} times that it is ready")
        self.database.close()

    def _swap(self, revision: str) -> str:
        """Set the revision; return the one before."""
        with self.database.write() as session:
            before = session.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one()
            session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :new"), {"new": revision})
        return str(before)

    def _attempts(self) -> set[tuple[str, int]]:
        with self.database.read() as session:
            return set(session.execute(select(Attempt.job_id, Attempt.number)).tuples())


# --- files ------------------------------------------------------------------------------------------------------------


class TearCheckpoint(Fault):
    """a job's checkpoints are truncated, and the trainers killed"""

    target = "trainer"

    @classmethod
    def fits(cls, field: Field) -> bool:
        return field.s3 is None

    def able(self) -> bool:
        found = Path(self.field.store().root).glob("*/checkpoints/*.pt")
        self.torn = sorted({path.parent for path in found if path.parts[-3] in self.stream.open})
        return bool(self.torn) and bool(self.field.trainers())

    def strike(self) -> None:
        checkpoints = sorted(self.torn[-1].glob("*.pt")) if self.torn else []
        for path in checkpoints[self.random.randrange(2) :]:  # all, or all but one
            with suppress(FileNotFoundError), path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
        signal_all(self.field.trainers(), signal.SIGKILL)
