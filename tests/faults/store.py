"""Faults of the artifact store: away, full, slow; of S3 through each part's own cable, of a folder through its disk."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from faults.fault import Fault
from faults.field import Field
from faults.stream import Stream
from support.proxy import Cable

FULL_SPEED = 0.0


class StoreFault(Fault):
    """For an S3 store. `cables`: those of the API, of one worker, or, half of the time, of all parts."""

    target, longest = "store", 12.0

    def __init__(self, field: Field, stream: Stream, random: Random) -> None:
        super().__init__(field, stream, random)
        self.whose = random.choice(("the API", "a worker", "all parts", "all parts"))

    @classmethod
    def fits(cls, field: Field) -> bool:
        return field.s3 is not None

    @property
    def name(self) -> str:
        return f"{super().name}, for {self.whose}"

    @property
    def cables(self) -> list[Cable]:
        assert self.field.s3 is not None
        workers = [post.store for post in self.field.posts if post.store is not None]
        one = workers[self.number]
        return {"the API": [self.field.s3.cable], "a worker": [one], "all parts": [self.field.s3.cable, *workers]}[
            self.whose
        ]


class CutStore(StoreFault):
    """the store does not answer"""

    def strike(self) -> None:
        for cable in self.cables:
            cable.cut()

    def mend(self) -> None:
        for cable in self.cables:
            cable.mend(reset=self.random.random() < 0.5)


class RefuseStore(StoreFault):
    """the store refuses connections"""

    longest = 40.0  # the library of S3 tries again for some ten seconds

    def strike(self) -> None:
        for cable in self.cables:
            cable.refuse()

    def mend(self) -> None:
        for cable in self.cables:
            cable.mend()


class FillStore(StoreFault):
    """the store has no room"""

    @property
    def name(self) -> str:
        return Fault.name.__get__(self)

    def strike(self) -> None:
        assert self.field.s3 is not None
        self.field.s3.faults(full=True)

    def mend(self) -> None:
        assert self.field.s3 is not None
        self.field.s3.faults()


class SlowStore(FillStore):
    """each write to the store takes seconds"""

    longest = 12.0
    write_seconds: ClassVar[tuple[float, float]] = (1.0, 5.0)

    def strike(self) -> None:
        assert self.field.s3 is not None
        self.field.s3.faults(write_seconds=self.random.uniform(*self.write_seconds))


class VerySlowStore(SlowStore):
    """each write to the store that begins now takes half a minute"""

    longest, write_seconds = 4.0, (30.0, 30.0)


class ProtectArtifacts(Fault):
    """the disk with the artifacts is read-only"""

    target, longest = "artifacts", 6.0

    @classmethod
    def fits(cls, field: Field) -> bool:
        return "artifacts" in field.disks

    def strike(self) -> None:
        self.protected = self.field.disks[self.target].try_to_protect()

    def look(self) -> None:
        if not self.protected:  # a file was being written
            self.strike()

    def mend(self) -> None:
        if self.protected:
            self.field.disks[self.target].unprotect()
