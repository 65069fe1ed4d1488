"""One campaign: jobs run while parts of the service are killed, suspended, cut off or starved, drawn from one seed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from random import Random
from unittest.mock import patch

import httpx2
from faults import health
from faults.audit import audit, leftovers, orphans
from faults.deck import deal, fitting
from faults.fault import Fault
from faults.field import Field
from faults.side_calls import SideCalls
from faults.stream import KINDS, Stream
from support.waiting import wait_for

from shared.artifacts import DATASETS
from shared.db.database import Database
from worker import store_sweep

AT_ONCE = 3  # faults
SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 1.5  # seconds between two faults
UNABLE_SECONDS = 10.0  # a fault waits this long for a target
TICK_SECONDS = 0.1
SWEEP_POLL_SECONDS = 0.5
STRIKE_SECONDS = 20  # per fault and per job, on a busy machine
SWEPT_SECONDS = 30
LAST_SECONDS = 300  # for the last job to end, which may be in its longest backoff
ALIKE = 3  # violations
NUMBERS = re.compile(r"\S*\d\S*")  # ids, keys, seconds
API = "api"  # the target of faults of the API itself, which then need not answer


@dataclass(frozen=True)
class Campaign:
    seed: int
    faults: int  # 0: each that fits, once
    jobs: int
    database: str  # sqlite or postgresql
    folder: Path
    kinds: int = len(KINDS)
    store: str = "folder"  # or s3
    hosts: int = 1  # 2: one per worker
    only: tuple[str, ...] = ()  # names of classes of faults; empty: all that fit

    def run(self) -> list[str]:
        """Run the campaign and print its progress. Returns the violations; an empty list is a pass."""
        place = f"{self.database}, store in {self.store}, {self.hosts} host{'s' * (self.hosts > 1)}"
        field = Field(self.folder, self.database, self.store, self.hosts)
        faults = self.faults or len(fitting(field, self.only))
        print(f"seed {self.seed}: {faults} faults, {self.jobs} jobs or more, {place}", flush=True)
        for what, why in field.missing.items():
            print(f"  not tested here: {what} ({why})")
        try:
            stream = Stream(field.start(), self.seed, self.kinds)
            stream.learn()
            calls = SideCalls(field, stream)
            calls.start()
            began = time.monotonic()
            self._disturb(field, stream, began, faults)
            wrong = self._come_to_rest(field, stream, calls)
            print("calls beside:", ", ".join(f"{count} {what}" for what, count in calls.counts.items()), flush=True)
        finally:
            field.close()
        wrong += orphans(field)
        probes = field.health.probes()
        print(f"/healthz: {health.summary(probes)}", flush=True)
        wrong = [*field.wrong, *wrong, *health.violations(probes, field.health.aways, began)]
        print(f"{stream.ended} jobs ended; {len(wrong)} violations", *shortened(wrong), sep="\n  ", flush=True)
        return wrong

    def _disturb(self, field: Field, stream: Stream, began: float, faults: int) -> None:
        """Apply the faults in order, up to AT_ONCE at a time, and submit jobs until all have been applied."""
        random = Random(self.seed)
        coming = deal(random, faults, field, self.only)
        draw: Callable[[], Fault | None] = lambda: next(
            (kind(field, stream, Random(random.random())) for kind in coming), None
        )
        fault, not_before = draw(), began
        active: list[tuple[float, Fault]] = []
        while fault or active or len(stream.accepted) < self.jobs:
            now = time.monotonic()
            assert now - began < STRIKE_SECONDS * (faults + self.jobs), f"{fault} and {active} do not end"
            field.tend()
            stream.tend(self.jobs if fault is None else len(stream.accepted) + 1)
            for until, struck in list(active):
                struck.look()
                if struck.hinders:
                    field.hindered_at = time.monotonic()  # after a part that `tend` has started
                if now >= until and struck.done():
                    struck.mend()
                    if struck.target == API:
                        field.health.back()
                    active.remove((until, struck))
            room = len(active) < AT_ONCE and all(fault.target != struck.target for _, struck in active if fault)
            if fault and room and now >= not_before and (fault.able() or now >= not_before + UNABLE_SECONDS):
                print(f"  {now - began:6.1f} s  {stream.ended:3d} jobs  {fault.name}", flush=True)
                if fault.target == API:
                    field.health.away()
                fault.strike()
                active.append((now + fault.seconds, fault))
                fault, not_before = draw(), now + random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
            time.sleep(TICK_SECONDS)

    def _come_to_rest(self, field: Field, stream: Stream, calls: SideCalls) -> list[str]:
        """Apply no more faults, wait for every job to end, and audit."""

        def all_ended() -> bool:
            field.tend()
            stream.tend(0)
            return stream.settled

        self._wait(field, all_ended, "the end of the last jobs")
        calls.stop()
        self._wait(field, calls.settle, "answers to all deletions")
        self._wait(field, partial(self._all_live, field), "heartbeats of both workers")
        deadline = time.monotonic() + SWEPT_SECONDS
        while (left := leftovers(field)) and not all(map(is_cut_off, left)) and time.monotonic() < deadline:
            time.sleep(SWEEP_POLL_SECONDS)
        if cut_off := list(filter(is_cut_off, left)):
            print(f"files of uploads that were cut off: {len(cut_off)}", flush=True)
            sweep_uploads(field)
            left = [said for said in left if not is_cut_off(said)] + list(filter(is_cut_off, leftovers(field)))
        return audit(field, stream) + left

    @staticmethod
    def _wait(field: Field, condition: Callable[[], bool], what: str) -> None:
        """Waiting in vain is a violation; the audit goes on."""
        try:
            wait_for(condition, LAST_SECONDS, what, every=TICK_SECONDS)
        except AssertionError as error:
            field.find(str(error))

    @staticmethod
    def _all_live(field: Field) -> bool:
        """Whether the processes that live are the workers that the API knows."""
        field.tend()
        processes = {post.part.process.pid for post in field.posts if post.part is not None}
        try:
            live = {worker["pid"] for worker in field.live_workers()}
        except (httpx2.TransportError, KeyError):  # the API starts again, or responds with 503
            return False
        return len(processes) == len(field.posts) and processes <= live


def is_cut_off(left: str) -> bool:
    """Whether it may be a file of an upload whose request was cut off, which is removed after an hour."""
    return left.startswith(f"{DATASETS}/")


def sweep_uploads(field: Field) -> None:
    """Sweep the store as a worker does, as if an hour had passed, which a campaign does not wait for."""
    database = Database(field.address())
    try:
        with patch.object(store_sweep, "UPLOAD_SECONDS", 0.0):
            store_sweep.StoreSweep(database, field.store(), SimpleQueue(), lambda: True, 1.0, 1.0).sweep()
    finally:
        database.close()


def shortened(wrong: list[str]) -> list[str]:
    """Of violations that differ only in ids and numbers, the first ALIKE and how many more there are."""
    groups: dict[str, list[str]] = {}
    for said in wrong:
        groups.setdefault(NUMBERS.sub("#", said), []).append(said)
    lines = []
    for alike in groups.values():
        lines += alike[:ALIKE]
        if len(alike) > ALIKE:
            lines.append(f"… and {len(alike) - ALIKE} more like it")
    return lines
