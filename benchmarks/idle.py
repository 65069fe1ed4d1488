"""What the service costs while it does nothing: its start, its memory, its stop, and `gradq ps` against it.

    python -m benchmarks.idle [--rounds 5]

Each round starts two services in new folders. The first one is idle: seconds from the start of `gradq up` to its line
`ready`, then memory and CPU time of its processes, by role, then some `gradq ps`, then seconds from SIGTERM to the end
of the process. The second one gets a job as soon as it is ready: what a start leaves for later shows in the first job.

Memory is the proportional set size (PSS) of /proc/PID/smaps_rollup: a page that several processes share counts in each
by its share, so the sum over the processes is what they occupy together. Linux only.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.support import (
    SMALL_JOB,
    STOP_SECONDS,
    address,
    milestones,
    parser,
    publish,
    say,
    summary,
    until_succeeded,
)
from gradq import Client

CLAIM = "an idle service takes at most 450 MB; gradq ps takes at most 0.25 s"
LIMIT_MB, LIMIT_PS_SECONDS = 450, 0.25
SETTLE_SECONDS, IDLE_SECONDS = 3.0, 5.0
COMMANDS = 5  # `gradq ps` per round
KB_PER_MB = 1000
PSS = "Pss:"


@contextmanager
def up() -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """`gradq up` in a new folder: process, URL, and seconds until it was ready. Killed if it runs after the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    with tempfile.TemporaryDirectory(prefix="gradq-bench-", ignore_cleanup_errors=True) as state:
        command = [sys.executable, "-m", "gradq", "up", "--port", "0", "--state", state]
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            url = address(process)
            yield process, url, time.perf_counter() - started
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=STOP_SECONDS)


def stopped(process: subprocess.Popen[str]) -> float:
    """Seconds from SIGTERM to the end of the process."""
    started = time.perf_counter()
    process.terminate()
    process.communicate(timeout=STOP_SECONDS)
    return time.perf_counter() - started


def role(process: psutil.Process) -> str:
    """Which part of the service the process is; the command line of a `gradq up` is the same in each version."""
    words = " ".join(process.cmdline())
    for word, name in (
        ("gradq up", "supervisor"),
        ("redis.sock", "broker"),
        ("gunicorn", "api"),
        ("multiprocessing.resource_tracker", "resource tracker"),
        ("multiprocessing.forkserver", "trainer server"),
        ("worker", "worker"),
    ):
        if word in words:
            return name
    return "other"


def pss_mb(process: psutil.Process) -> float:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(PSS)) * 1024 / 1000 / KB_PER_MB


def memory(root: int) -> dict[str, float]:
    """Megabytes of each role, and of all."""
    tree = psutil.Process(root)
    found: dict[str, float] = {}
    for process in [tree, *tree.children(recursive=True)]:
        name = role(process)
        found[name] = found.get(name, 0.0) + pss_mb(process)
    return {**found, "all": sum(found.values())}


def cpu_seconds(root: int) -> float:
    tree = psutil.Process(root)
    return sum(sum(process.cpu_times()[:2]) for process in [tree, *tree.children(recursive=True)])


def ps(url: str) -> tuple[float, float]:
    """CPU and wall seconds of one `gradq ps`."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "GRADQ_URL": url}
    subprocess.run([sys.executable, "-m", "gradq", "ps"], env=environment, stdout=subprocess.DEVNULL, check=True)
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def idle_round(found: dict[str, list[float]], megabytes: dict[str, list[float]]) -> None:
    """Start, memory, `gradq ps` and stop of a service without a job."""
    with up() as (process, url, start):
        found["start_seconds"].append(start)
        found["start_cpu_seconds"].append(cpu_seconds(process.pid))
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        found["idle_cores"].append((cpu_seconds(process.pid) - before) / IDLE_SECONDS)
        for name, value in memory(process.pid).items():
            megabytes.setdefault(name, []).append(value)
        calls = [ps(url) for _ in range(COMMANDS)]
        found["ps_cpu_seconds"].append(statistics.median(cpu for cpu, _ in calls))
        found["ps_wall_seconds"].append(statistics.median(wall for _, wall in calls))
        found["stop_seconds"].append(stopped(process))


def job_round(found: dict[str, list[float]]) -> None:
    """A job that is submitted as soon as the service is ready, and a stop after it."""
    with up() as (process, url, _):
        with Client(url) as client:
            posted = time.time()
            job_id = client.submit(SMALL_JOB)["id"]
            until_succeeded(client, [job_id])
            reached = milestones(client.job(job_id).events())
        found["first_job_step_seconds"].append(reached["first_step"] - posted)
        found["first_job_seconds"].append(reached["succeeded"] - posted)
        found["mb_after_a_job"].append(memory(process.pid)["all"])
        found["stop_after_a_job_seconds"].append(stopped(process))


def main() -> None:
    options = parser(__doc__, "idle")
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    found: dict[str, list[float]] = {
        name: []
        for name in (
            *("start_seconds", "start_cpu_seconds", "stop_seconds", "idle_cores", "ps_cpu_seconds", "ps_wall_seconds"),
            *("first_job_step_seconds", "first_job_seconds", "mb_after_a_job", "stop_after_a_job_seconds"),
        )
    }
    megabytes: dict[str, list[float]] = {}
    with up() as (process, url, _):  # fills caches: of the disk, of compiled modules, of fonts
        ps(url)
        stopped(process)
    for number in range(asked.rounds):
        idle_round(found, megabytes)
        job_round(found)
        say(f"round {number + 1}: ready in {found['start_seconds'][-1]:.2f} s, {megabytes['all'][-1]:.0f} MB")
    publish(
        "idle",
        CLAIM,
        {
            "rounds": asked.rounds,
            **{name: summary(values, digits=3) for name, values in found.items()},
            "pss_mb": {name: summary(values) for name, values in megabytes.items()},
            "claim_holds": statistics.median(megabytes["all"]) <= LIMIT_MB
            and statistics.median(found["ps_wall_seconds"]) <= LIMIT_PS_SECONDS,
        },
        asked.save,
    )


if __name__ == "__main__":
    main()
