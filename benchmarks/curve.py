"""Seconds and memory that a job's long curve takes in the API: thinned points, its picture, and all of it as CSV.

Claim: with a million points of one job, a thinned query is answered within 60 ms, and adds at most 20 MB to the API's
memory; the CSV adds no more. The points are appended as a worker does it, 5000 in a transaction. `query`, `picture` and
`csv` are seconds over HTTP; memory is the growth of the API's peak (VmHWM), in MB, since before the first request of
its kind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import httpx
import psutil

from benchmarks.dashboard import point
from benchmarks.support import SMALL_JOB, Figures, api, parser, publish, say, summary
from shared.db.database import Database
from shared.jobs import jobs, queue
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec

CLAIM = "of a million points of a job, a thinned query takes at most 60 ms and 20 MB of the API's memory"
POINTS = 999_999  # one fewer than a whole block: with these, most is read of the log and of each level
LINES = 5000  # in a transaction, as in worker/log_buffer.py
LIMITS = (100, 1000, 5000, 10_000)  # `max_points`
QUERY_SECONDS, QUERY_MB = 0.060, 20.0


def main() -> None:
    options = parser(__doc__, "curve")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--points", type=int, default=POINTS)
    options.add_argument("--database", help="a PostgreSQL URL (default: SQLite in a new folder)")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
        url = asked.database or f"sqlite:///{folder}/gradq.db"
        with api("--workers", "1", GRADQ_DATABASE_URL=url) as client:
            database = Database(url)
            job_id, written = fill(database, asked.points)
            database.close()
            server = httpx.Client(base_url=client.url, timeout=300)
            found = {"write": written, **measure(server, f"/v1/jobs/{job_id}", asked.rounds)}
    holds = max(each["median"] for each in found["query"].values()) <= QUERY_SECONDS and found["query_mb"] <= QUERY_MB
    kind = "postgresql" if asked.database else "sqlite"
    publish("curve", CLAIM, {"database": kind, "points": asked.points, **found, "claim_holds": holds}, asked.save)


def fill(database: Database, points: int) -> tuple[str, Figures]:
    """Append the points to a claimed job and end it. Returns its id, and what a point took of this process."""
    with database.write() as session:
        jobs.create(session, JobSpec.model_validate({**SMALL_JOB, "name": "a long job"}))
    with database.write() as session:
        job = queue.claim(session, "benchmark", "cpu", {"auto", "cpu"}, 3600)
        assert job is not None, "it is the only one"
        lease = queue.lease_of(job)
    began, computed = time.monotonic(), time.process_time()
    for first in range(1, points + 1, LINES):
        lines = [point(number) for number in range(first, min(first + LINES, points + 1))]
        with database.write() as session:
            queue.append(session, lease, lines)
    took = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - computed}
    with database.write() as session:
        queue.finish(session, lease, JobState.SUCCEEDED, "done")
    say(f"{points} points written in {took['seconds']:.0f} s")
    return lease.job_id, {f"{name}_per_1000_points": round(1000 * value / points, 5) for name, value in took.items()}


def measure(server: httpx.Client, job: str, rounds: int) -> Figures:
    processes = servers()
    server.get(job).raise_for_status()  # a warm-up that reads no curve: imports, connections
    before = peak_mb(processes)
    query = {str(limit): summary(timed(server, f"{job}/metrics?max_points={limit}", rounds), 4) for limit in LIMITS}
    after_query = peak_mb(processes)
    whole = summary(timed(server, f"{job}/metrics", 3, {"Accept": "text/csv"}), 3)
    after_csv = peak_mb(processes)
    picture = {
        format: summary(timed(server, f"{job}/loss_curve.{format}", rounds + 1)[1:], 3) for format in ("png", "svg")
    }
    found = {
        "query": query,
        "query_mb": round(after_query - before, 1),
        "csv": whole,
        "csv_mb": round(after_csv - after_query, 1),
        "picture": picture,
        "picture_mb": round(peak_mb(processes) - after_csv, 1),  # most of it is matplotlib
    }
    say(f"a thinned query takes {query['1000']['median'] * 1000:.0f} ms, the CSV {whole['median']:.1f} s")
    return found


def timed(server: httpx.Client, path: str, rounds: int, headers: dict[str, str] | None = None) -> list[float]:
    """Seconds of each request, until its last byte. Raises httpx.HTTPStatusError."""

    def once() -> None:
        with server.stream("GET", path, headers=headers) as response:
            response.raise_for_status()
            for _ in response.iter_raw():
                pass

    return [seconds(once) for _ in range(rounds)]


def seconds(call: Callable[[], None]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def servers() -> list[int]:
    """The ids of the API's processes."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "redis" not in child.name() and "valkey" not in child.name()]


def peak_mb(processes: list[int]) -> float:
    """The sum of the largest resident sizes so far."""
    return sum(_peak_kib(pid) for pid in processes) * 1024 / 1e6


def _peak_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
