"""From `POST /v1/jobs` to `running` on a worker with one slot, some time after its last job has ended.

Claim: whatever the time since then, half of all jobs are running 15 ms after the request, and 95 of 100 after 40 ms.
Client and worker run on the same machine, so their timestamps are comparable.
"""

from __future__ import annotations

import time

from benchmarks.support import SMALL_JOB, milestones, parser, publish, say, service, summary, until_succeeded
from gradq import Client

CLAIM = "POST to running at most 15 ms (median) and 40 ms (95th percentile) at any time after the last job's end"
MEDIAN_MS, P95_MS = 15, 40
WARM_UP_JOBS = 2
GAPS = (0.0, 0.1, 0.3, 1.0, 2.0)  # seconds between the end of a job and the next request


def to_running(client: Client, gap: float) -> float:
    """Milliseconds from a request to `running`, `gap` seconds after the answer that says that the last job has ended.
    Returns when the job has ended."""
    time.sleep(gap)
    posted = time.time()
    job_id = client.submit(SMALL_JOB)["id"]
    client.job(job_id).wait()
    return 1000 * (milestones(client.job(job_id).events())["claimed"] - posted)


def main() -> None:
    options = parser(__doc__, "doorbell")
    options.add_argument("--jobs", type=int, default=20, help="per gap")
    options.add_argument("--database", help="GRADQ_DATABASE_URL; SQLite by default")
    asked = options.parse_args()
    settings = {"GRADQ_DATABASE_URL": asked.database} if asked.database else {}
    with service("--slots", "1", **settings) as client:
        say("the service is ready")
        for _ in range(WARM_UP_JOBS):
            job_id = client.submit(SMALL_JOB)["id"]
            until_succeeded(client, [job_id])
        took = {gap: summary([to_running(client, gap) for _ in range(asked.jobs)]) for gap in GAPS}
    figures = {
        "jobs_per_gap": asked.jobs,
        "running_ms": {f"{gap:g} s": figure for gap, figure in took.items()},
        "claim_holds": all(each["median"] <= MEDIAN_MS and each["p95"] <= P95_MS for each in took.values()),
    }
    publish("doorbell", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
