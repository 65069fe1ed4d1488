"""Training on a busy machine: two processes per core that compute all the time, and jobs with one and two threads.

Claim: whatever `--slots`, `--threads` and number of workers, a job takes at most three times the training time of one
job with one thread on the same busy machine. The network has 4e8 operations a step, enough for a second thread. On the
quiet machine two threads take at most 1.05 times as long as two that spin for as long as GNU's OpenMP lets them by
default, as they did up to gradq 0.2.0.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.support import Figures, parser, publish, say, service, summary, until_succeeded
from gradq import Client

MOST = 3.0
MOST_WHEN_QUIET = 1.05
CLAIM = (
    f"on a busy machine a job takes at most {MOST:g} times the training time of one with one thread, "
    f"on a quiet one at most {MOST_WHEN_QUIET:g} times that of threads that spin"
)
SPINS_BY_DEFAULT = "300000"  # GNU's OpenMP, if neither GOMP_SPINCOUNT nor OMP_WAIT_POLICY is set
PER_CORE = 2
JOB = {
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [1024, 1024]},
    "epochs": 8,
    "device": "cpu",
}
ONE_THREAD = ("--slots", "1", "--threads", "1")
CASES: dict[str, list[tuple[str, ...]]] = {  # the arguments of each worker's `gradq up`
    "one job, 1 thread": [ONE_THREAD],
    "one job, 2 threads": [("--slots", "1", "--threads", "2")],
    "two jobs, 1 thread each": [("--slots", "2", "--threads", "1")],
    "two jobs, 2 threads each": [("--slots", "2", "--threads", "2")],
    "two workers with one job each, default settings": [("--slots", "1"), ("--slots", "1")],
}


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """That many processes compute until the block ends."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def training_seconds(workers: Sequence[tuple[str, ...]], **environment: str) -> list[float]:
    """Of one job for each slot of each worker, all at the same time; the first job of each worker is not counted."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service(*arguments, **environment)) for arguments in workers]
        for client in clients:
            until_succeeded(client, [client.submit(JOB | {"epochs": 1})["id"]])
        return in_every_slot(clients)


def in_every_slot(clients: Sequence[Client]) -> list[float]:
    submitted: list[tuple[Client, str]] = []
    for client in clients:
        slots = sum(worker["slots"] for worker in client.workers())
        submitted += [(client, client.submit(JOB)["id"]) for _ in range(slots)]
    for client, job_id in submitted:
        until_succeeded(client, [job_id])
    return [client.job(job_id)["result"]["training_seconds"] for client, job_id in submitted]


def on_the_busy_machine(rounds: int, processes: int) -> Figures:
    """Ratios to the median of one job with one thread, by case: median and the longest."""
    took: dict[str, list[float]] = {case: [] for case in CASES}
    with busy(processes):
        for _ in range(rounds):
            for case, workers in CASES.items():
                took[case] += training_seconds(workers)
                say(f"busy, {case}: {took[case][-1]:.2f} s")
    alone = summary(took["one job, 1 thread"], digits=3)["median"]
    ratios = {case: summary([seconds / alone for seconds in took[case]], digits=2) for case in CASES}
    return {
        "one_thread_seconds": alone,
        "ratios": ratios,
        "claim_holds": max(found["max"] for found in ratios.values()) <= MOST,
    }


def on_the_quiet_machine(rounds: int) -> Figures:
    """Seconds of one job, with one thread, with two, and with two that spin; the ratio of the medians of the latter."""
    two = ("--slots", "1", "--threads", "2")
    cases: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        "one_thread": (ONE_THREAD, {}),
        "two_threads": (two, {}),
        "two_spinning_threads": (two, {"GOMP_SPINCOUNT": SPINS_BY_DEFAULT}),
    }
    took: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, (arguments, environment) in cases.items():
            took[case] += training_seconds([arguments], **environment)
            say(f"quiet, {case}: {took[case][-1]:.2f} s")
    found: Figures = {case: summary(seconds, digits=3) for case, seconds in took.items()}
    ratio = round(found["two_threads"]["median"] / found["two_spinning_threads"]["median"], 2)
    return found | {"ratio_to_spinning": ratio, "claim_holds": ratio <= MOST_WHEN_QUIET}


def main() -> None:
    options = parser(__doc__, "busy")
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    processes = PER_CORE * (os.cpu_count() or 1)
    figures: dict[str, Any] = {
        "rounds": asked.rounds,
        "busy_processes": processes,
        "quiet": on_the_quiet_machine(asked.rounds),
        "busy": on_the_busy_machine(asked.rounds, processes),
    }
    publish("busy", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
