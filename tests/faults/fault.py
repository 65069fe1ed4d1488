"""The base of all faults. `strike` applies the fault, `mend` undoes it after `seconds`.

Each kind is a small class in one of the modules that deck.py lists. At most one fault per `target` is active at a
time; `fits` is whether this machine and database allow the fault.
"""

from __future__ import annotations

from random import Random
from typing import ClassVar

from faults.field import Field, Post
from faults.stream import Stream


class Fault:
    target: ClassVar[str] = ""
    longest: ClassVar[float] = 0.0  # seconds between strike and mend; 0: nothing to undo
    hinders: ClassVar[bool] = False  # whether parts may be unable to start meanwhile

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
        """Whether there is a target now; if not, the campaign waits for a while."""
        return True

    def strike(self) -> None:
        raise NotImplementedError

    def look(self) -> None:
        """Called every moment between strike and mend."""

    def mend(self) -> None:
        pass

    def done(self) -> bool:
        """Whether it may be undone, once its seconds are over."""
        return True


class WhileTraining(Fault):
    def able(self) -> bool:
        return bool(self.field.trainers())
