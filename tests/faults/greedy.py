"""python -m faults.greedy --minutes 10 --database postgresql --only stalled-downloads,half-sent: one greedy owner.

One owner with a `submit` token tries everything in `abuses.py`, each kind alone and then all together, while a second
owner submits steadily. It passes if the second owner is served, and memory and disk stay within their limits; what each
kind cost is printed. Run it from `tests/`, or with it on the PYTHONPATH.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from faults.abuses import KINDS, Cost
from support.people import bearer, token_for
from support.postgres import Postgres
from support.service import PATIENCE, Service
from support.waiting import wait_for

from shared.config import Settings
from shared.db.database import Database

MB = 1 << 20
SUBMIT_SECONDS = 0.2  # between two submits of the second owner
SUBMIT_P95_MS = 300
KEPT_JOBS = 300  # of the second owner
MEMORY_FACTOR, MEMORY_EXTRA = 1.5, 300 * MB  # of API and worker, to what they have when idle
BUDGET = 400 * MB  # GRADQ_MAX_OWNER_BYTES of this service
SHARED_DISK = 100 * MB  # logs and database, beyond the greedy owner's budget
STOP_MEMORY = STOP_DISK = 2048 * MB  # growth at which the run is ended, for the sake of the machine
ALONE_SHARE = 0.5  # of the time, for each kind alone
TARGET = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [2000, 1000]}, "epochs": 1}


class Harmful(Exception):
    """Memory or disk has grown so much that the run was ended."""


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass
class Latencies:
    """Milliseconds of one caller's requests; one that fails counts as long as it took, and is counted. `after` is
    called with each response that is no error, and not measured."""

    call: Callable[[], httpx2.Response]
    pause: float
    after: Callable[[httpx2.Response], None] = lambda _: None
    milliseconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def run(self, over: threading.Event) -> None:
        while not over.wait(self.pause):
            began = time.perf_counter()
            try:
                response = self.call()
            except httpx2.HTTPError as error:
                response = None
                self.failed[type(error).__name__] += 1
            self.milliseconds.append(1000 * (time.perf_counter() - began))
            if response is None:
                continue
            if response.is_error:
                self.failed[str(response.status_code)] += 1
            else:
                self.after(response)

    def p95(self, since: int = 0) -> float:
        found = sorted(self.milliseconds[since:])
        return found[min(len(found) - 1, int(0.95 * len(found)))] if found else 0.0


class Usage:
    """Memory of the API's processes and the worker, without trainers, and bytes in the state folder, without the files
    of the jobs in `others`."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.others: set[str] = set()
        self.most_memory = self.most_disk = 0

    def look(self) -> tuple[int, int]:
        memory, disk = self.memory(), self.disk()
        self.most_memory, self.most_disk = max(self.most_memory, memory), max(self.most_disk, disk)
        return memory, disk

    def memory(self) -> int:
        apis = [process for part in self.service.parts if part.log.name == "api.log" for process in part.family()]
        workers = [part.handle for part in self.service.parts if part.log.name == "worker.log"]
        total = 0
        for process in (*apis, *workers):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss  # pages shared by the processes count once
        return total

    def disk(self) -> int:
        total = 0
        for parent, folders, names in os.walk(self.service.state):
            folders[:] = [folder for folder in folders if folder not in self.others]
            for name in names:
                with suppress(OSError):
                    total += os.stat(os.path.join(parent, name)).st_size
        return total


# --- the greedy owner, in a process of its own ------------------------------------------------------------------------


def abuse(names: Sequence[str], url: str, token: str, target: str, ready: Any, over: Any, costs: Any) -> None:
    """Set `ready`, run these kinds at once until `over` is set, and put their costs into the queue. With a lower
    priority, so that the second owner is not slow because this process takes the cores."""
    os.nice(5)
    kinds = [KINDS[name](url, token, target) for name in names]
    threads = [threading.Thread(target=kind.run) for kind in kinds]
    ready.set()
    for thread in threads:
        thread.start()
    over.wait()
    for kind in kinds:
        kind.over.set()
    for thread in threads:
        thread.join()
    costs.put({kind.name: kind.cost for kind in kinds})


class Greedy:
    """One run. `problems` has what did not hold."""

    def __init__(self, folder: Path, database_url: str | None, names: Sequence[str], seconds: float) -> None:
        self.names, self.seconds = names, seconds
        self.problems: list[str] = []
        environment = {
            "GRADQ_ALLOW_ANONYMOUS": "false",
            "GRADQ_MAX_OWNER_BYTES": str(BUDGET),
            "GRADQ_SLOTS": "2",
            **({} if database_url is None else {"GRADQ_DATABASE_URL": database_url}),
        }
        self.service = Service(folder, environment)
        self.usage = Usage(self.service)
        self.context = multiprocessing.get_context("spawn")

    def run(self) -> list[str]:
        try:
            self.start()
            self.measure()
        except Harmful as error:
            self.problems.append(str(error))
        finally:
            self.service.close()
        return self.problems

    def start(self) -> None:
        service = self.service
        service.migrate()
        database = Database(service.env.get("GRADQ_DATABASE_URL", f"sqlite:///{service.state / 'gradq.db'}"))
        self.greedy, other = token_for(database, "greedy"), token_for(database, "other")
        database.close()
        service.start_broker()
        service._gradq("worker")
        service.start_api(processes=2)
        service.http.headers.update(bearer(self.greedy))
        wait_for(service.live_workers, PATIENCE, "a live worker")
        self.target = service.wait(service.submit(**TARGET)["id"])["id"]
        http = httpx2.Client(base_url=service.http.base_url, timeout=20, headers=bearer(other))
        spec = {"dataset": "digits", "architecture": "linear", "epochs": 1}

        def tidy(response: httpx2.Response) -> None:
            """Delete the files of an earlier job: the second owner has a budget, too."""
            jobs.append(response.json()["id"])
            self.usage.others.add(jobs[-1])
            if len(jobs) > KEPT_JOBS:
                with suppress(httpx2.HTTPError):
                    if http.delete(f"/v1/jobs/{jobs[0]}").status_code != 409:  # it has not ended
                        jobs.popleft()

        jobs: deque[str] = deque()
        self.submits = Latencies(lambda: http.post("/v1/jobs", json=spec), SUBMIT_SECONDS, tidy)
        self.health = Latencies(lambda: httpx2.get(f"{service.http.base_url}/healthz", timeout=20), SUBMIT_SECONDS)

    def measure(self) -> None:
        over = threading.Event()
        watchers = [threading.Thread(target=watched.run, args=(over,)) for watched in (self.submits, self.health)]
        try:
            for watcher in watchers:
                watcher.start()
            idle_memory, idle_disk = self.idle()
            since = len(self.submits.milliseconds)
            if len(self.names) > 1:
                for name in self.names:
                    self.phase(name, [name], ALONE_SHARE * self.seconds / len(self.names))
            together = len(self.submits.milliseconds)
            self.phase("all together", self.names, self.seconds * (ALONE_SHARE if len(self.names) > 1 else 1))
        finally:
            over.set()
            for watcher in watchers:
                watcher.join()
        self.check(since, together, idle_memory, idle_disk)

    def idle(self) -> tuple[int, int]:
        """Memory and disk while only the second owner submits."""
        time.sleep(min(5.0, self.seconds / 8))
        memory, disk = self.usage.look()
        self.idle_p95 = self.submits.p95()  # of a machine that may be busy with something else
        say(f"idle: {memory / MB:.0f} MB of memory, {disk / MB:.0f} MB of disk, submit p95 {self.submits.p95():.0f} ms")
        self.limit_memory, self.limit_disk = memory + STOP_MEMORY, disk + STOP_DISK
        return memory, disk

    def phase(self, title: str, names: Sequence[str], seconds: float) -> None:
        """Run these kinds for some seconds and print what they cost."""
        ready, over, costs = self.context.Event(), self.context.Event(), self.context.Queue()
        arguments = (names, str(self.service.http.base_url), self.greedy, self.target, ready, over, costs)
        process = self.context.Process(target=abuse, args=arguments)
        process.start()
        assert ready.wait(PATIENCE), "the greedy owner does not start"
        memory, disk = self.usage.look()
        submits, health = len(self.submits.milliseconds), len(self.health.milliseconds)
        most_memory, until = memory, time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                time.sleep(min(1.0, seconds / 4))
                most_memory = max(most_memory, self.usage.look()[0])
                self.guard()
        finally:
            over.set()
            found: dict[str, Cost] = costs.get(timeout=PATIENCE)
            process.join(PATIENCE)
        grown = self.usage.look()[1] - disk
        slowest = max(self.health.milliseconds[health:], default=0.0)
        say(
            f"{title}: {seconds:.0f} s, memory {(most_memory - memory) / MB:+.0f} MB, disk {grown / MB:+.0f} MB, "
            f"submit p95 {self.submits.p95(submits):.0f} ms, healthz at most {slowest:.0f} ms"
        )
        for name, cost in found.items():
            say(
                f"    {name}: {cost.requests} requests, {cost.sent / MB:.1f} MB sent, {cost.received / MB:.1f} MB "
                f"received, {dict(cost.statuses.most_common(6))}"
            )

    def guard(self) -> None:
        if self.usage.most_memory > self.limit_memory or self.usage.most_disk > self.limit_disk:
            raise Harmful(
                f"ended: {self.usage.most_memory / MB:.0f} MB of memory, {self.usage.most_disk / MB:.0f} MB of disk"
            )

    def check(self, since: int, together: int, idle_memory: int, idle_disk: int) -> None:
        """`since`, `together`: the numbers of submits before the first abuse, and before all of them together."""
        beside = self.submits.milliseconds[since:]
        # a slow phase has fewer submits: it must not disappear among the others
        p95, memory = max(self.submits.p95(since), self.submits.p95(together)), self.usage.most_memory
        say(
            f"the second owner: {len(beside)} submits, median {statistics.median(beside):.0f} ms, p95 {p95:.0f} ms; "
            f"failed: {dict(self.submits.failed)}"
        )
        allowed = max(SUBMIT_P95_MS, 3 * self.idle_p95)
        if p95 > allowed:
            self.problems.append(f"the second owner's submits took {p95:.0f} ms (p95), allowed: {allowed:.0f}")
        if self.submits.failed or self.health.failed:
            self.problems.append(f"calls of others failed: {dict(self.submits.failed)} {dict(self.health.failed)}")
        if memory > MEMORY_FACTOR * idle_memory + MEMORY_EXTRA:
            self.problems.append(f"{memory / MB:.0f} MB of memory, idle: {idle_memory / MB:.0f}")
        if "max_owner_bytes" not in Settings.model_fields:
            say("disk: GRADQ_MAX_OWNER_BYTES is not a setting of this version, so growth has no limit to compare with")
        elif (grown := self.usage.most_disk - idle_disk) > BUDGET + SHARED_DISK:
            self.problems.append(f"{grown / MB:.0f} MB of disk, allowed: {(BUDGET + SHARED_DISK) / MB:.0f}")


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults.greedy", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--only", default=",".join(KINDS), help=f"comma-separated, of: {', '.join(KINDS)}")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(KINDS)}")
    folder = Path(tempfile.mkdtemp(prefix="gradq-greedy-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = stack.enter_context(Postgres()).database() if options.database == "postgresql" else None
        problems = Greedy(folder, url, names, 60 * options.minutes).run()
    for problem in problems:
        say(f"DOES NOT HOLD: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
