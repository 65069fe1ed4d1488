"""One campaign: jobs run while parts of the service are killed, suspended, cut off or starved, drawn from one seed."""

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
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 1.5  # seconds between two faults
UNABLE_SECONDS = 10.0  # a fault waits this long for a target
TICK_SECONDS = 0.1
STRIKE_SECONDS = 20  # per fault and per job, on a busy machine
SWEPT_SECONDS = 10
LAST_SECONDS = 300  # for the last job to end, which may be in its longest backoff


@dataclass(frozen=True)
class Campaign:
    seed: int
    faults: int
    jobs: int
    database: str  # sqlite or postgresql
    folder: Path
    kinds: int = len(KINDS)

    def run(self) -> list[str]:
        """Run the campaign and print its progress. Returns the violations; an empty list is a pass."""
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
        print(f"{stream.ended} jobs ended; {len(wrong)} violations", *wrong, sep="\n  ", flush=True)
        return wrong

    def _disturb(self, field: Field, stream: Stream) -> None:
        """Apply the faults in order, up to AT_ONCE at a time, and submit jobs until all have been applied."""
        began = time.monotonic()
        random = Random(self.seed)
        coming = deal(random, self.faults, field)
        draw: Callable[[], Fault | None] = lambda: next(
            (kind(field, stream, Random(random.random())) for kind in coming), None
        )
        fault, not_before = draw(), began
        active: list[tuple[float, Fault]] = []
        while fault or active or len(stream.accepted) < self.jobs:
            now = time.monotonic()
            assert now - began < STRIKE_SECONDS * (self.faults + self.jobs), f"{fault} and {active} do not end"
            field.tend()
            stream.tend(self.jobs if fault is None else len(stream.accepted) + 1)
            for until, struck in list(active):
                if now >= until and struck.done():
                    struck.mend()
                    active.remove((until, struck))
            room = len(active) < AT_ONCE and all(fault.target != struck.target for _, struck in active if fault)
            if fault and room and now >= not_before and (fault.able() or now >= not_before + UNABLE_SECONDS):
                print(f"  {now - began:6.1f} s  {stream.ended:3d} jobs  {fault.name}", flush=True)
                fault.strike()
                active.append((now + fault.seconds, fault))
                fault, not_before = draw(), now + random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
            time.sleep(TICK_SECONDS)

    def _come_to_rest(self, field: Field, stream: Stream) -> list[str]:
        """Apply no more faults, wait for every job to end, and audit."""

        def all_ended() -> bool:
            field.tend()
            stream.tend(0)
            return not stream.open

        try:
            wait_for(all_ended, LAST_SECONDS, "the end of the last jobs", every=TICK_SECONDS)
        except AssertionError as error:
            print(f"{error}: {', '.join(sorted(stream.open))}", flush=True)  # the audit reports each of them
        deadline = time.monotonic() + SWEPT_SECONDS
        while (left := leftovers(field)) and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)
        return audit(field, stream) + left
