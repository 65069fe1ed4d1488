"""One campaign: jobs go through a service whose parts are killed, stopped, cut off and starved, drawn from one seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faults.audit import audit, leftovers, orphans
from faults.deck import deal
from faults.fault import Fault
from faults.field import Field
from faults.stream import KINDS, Stream
from support.waiting import wait_for

AT_ONCE = 3  # faults
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 1.5  # seconds between two strikes
UNABLE_SECONDS = 10.0  # a fault waits this long for something to strike
TICK_SECONDS = 0.1
STRIKE_SECONDS = 20  # for each fault and each job, on a machine that has other things to do
SWEPT_SECONDS = 10
LAST_SECONDS = 300  # for the last job to end: it may be in its longest backoff


@dataclass(frozen=True)
class Campaign:
    seed: int
    faults: int
    jobs: int
    database: str  # sqlite or postgresql
    folder: Path
    kinds: int = len(KINDS)

    def run(self) -> list[str]:
        """What is wrong afterwards; an empty list is a pass. Prints what it does."""
        print(f"seed {self.seed}: {self.faults} faults, {self.jobs} jobs or more, {self.database}", flush=True)
        field = Field(self.folder, self.database)
        for what, why in field.missing.items():
            print(f"  not tested here: {what} ({why})")
        try:
            stream = Stream(field.start(), self.seed, self.kinds)
            stream.learn()
            self._disturb(field, stream)
            wrong = self._come_to_rest(field, stream)
        finally:
            field.close()
        wrong += orphans(field)
        print(f"{stream.ended} jobs ended; {len(wrong)} things are wrong", *wrong, sep="\n  ", flush=True)
        return wrong

    def _disturb(self, field: Field, stream: Stream) -> None:
        """Strike one fault after the other, several at a time; keep jobs coming until all have been struck."""
        began = time.monotonic()
        random = Random(self.seed)
        coming = deal(random, self.faults, field)
        draw: Callable[[], Fault | None] = lambda: next(
            (kind(field, stream, Random(random.random())) for kind in coming), None
        )
        fault, not_before = draw(), began
        standing: list[tuple[float, Fault]] = []
        while fault or standing or len(stream.accepted) < self.jobs:
            now = time.monotonic()
            assert now - began < STRIKE_SECONDS * (self.faults + self.jobs), f"{fault} and {standing} are never done"
            field.tend()
            stream.tend(self.jobs if fault is None else len(stream.accepted) + 1)
            for until, struck in list(standing):
                if now >= until and struck.done():
                    struck.mend()
                    standing.remove((until, struck))
            room = len(standing) < AT_ONCE and all(fault.target != struck.target for _, struck in standing if fault)
            if fault and room and now >= not_before and (fault.able() or now >= not_before + UNABLE_SECONDS):
                print(f"  {now - began:6.1f} s  {stream.ended:3d} jobs  {fault.name}", flush=True)
                fault.strike()
                standing.append((now + fault.seconds, fault))
                fault, not_before = draw(), now + random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
            time.sleep(TICK_SECONDS)

    def _come_to_rest(self, field: Field, stream: Stream) -> list[str]:
        """Break nothing any more, let every job end, and look at what there is."""

        def all_ended() -> bool:
            field.tend()
            stream.tend(0)
            return not stream.open

        try:
            wait_for(all_ended, LAST_SECONDS, "the end of the last jobs", every=TICK_SECONDS)
        except AssertionError as error:
            print(f"{error}: {', '.join(sorted(stream.open))}", flush=True)  # the audit says of each how it stands
        deadline = time.monotonic() + SWEPT_SECONDS
        while (left := leftovers(field)) and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)
        return audit(field, stream) + left
