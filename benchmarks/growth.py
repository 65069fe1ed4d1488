"""The times of lists, filters, counts and dry runs in a service with 100 000 jobs, over HTTP.

Claim: 95 of 100 such calls take less than 30 ms, on SQLite and on PostgreSQL (`--database`, an empty one). For
comparison: the same calls in a service with a hundredth of the jobs.
"""

from __future__ import annotations

import functools
import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import uuid6
from sqlalchemy import insert

import api as api_package
from benchmarks.support import SMALL_JOB, Figures, api, parser, publish, say, summary
from shared.db.database import Database
from shared.db.tables import AuditRow, Job, JobLabel, JobName, NameGram
from shared.jobs.search_rows import grams

CLAIM = "lists, filters, counts and dry runs take less than 30 ms with 100 000 jobs (p95)"
MOST_MS = 30.0
BATCH = 2000
EXAMPLE = Path(api_package.__file__).parent / "openapi/response_examples/Job.json"  # a finished job, as recorded
OWNERS = (None, "ada", "bob", "eve")
SHARES = {"succeeded": 900, "failed": 60, "cancelled": 38, "queued": 2}  # of a thousand jobs
FACTOR = 0x9E3779B1  # odd, so that no two names are equal
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
MINUTES = timedelta(minutes=4)  # between two submissions
HALF = "2026-06-01T00:00:00Z"

CALLS = {
    "all": "/v1/jobs",
    "status": "/v1/jobs?status=succeeded",
    "two statuses": "/v1/jobs?status=succeeded,failed",
    "rare status": "/v1/jobs?status=paused",
    "label": "/v1/jobs?label.team=b",
    "label of no job": "/v1/jobs?label.team=x",
    "label of one job": "/v1/jobs?label.run=7",
    "name": "/v1/jobs?name=*mnist*",
    "name of no job": "/v1/jobs?name=*x*",
    "name of few jobs": "/v1/jobs?name=*3a7f*",
    "owner": "/v1/jobs?owner=ada",
    "owner of no job": "/v1/jobs?owner=without-jobs",
    "owner and status": "/v1/jobs?owner=ada&status=failed",
    "label and status": "/v1/jobs?label.team=b&status=failed",
    "label and rare status": "/v1/jobs?label.team=b&status=paused",
    "name and status": "/v1/jobs?name=*mnist*&status=failed",
    "created after": f"/v1/jobs?created_after={HALF}",
    "created before": f"/v1/jobs?created_before={HALF}",
    "last page": "/v1/jobs?after={oldest}",
    "last page of a status": "/v1/jobs?status=failed&after={oldest}",
    "dry run": "POST /v1/jobs?dry_run=true",
    "bulk by filter": "POST /v1/jobs/bulk",
    "list on the dashboard": "GET /",
    "queues": "/v1/queues",
    "metrics": "/metrics",
    "a job": "/v1/jobs/{oldest}",
    "audit of an action": "/v1/audit?action=jobs.delete",
    "page to draw on": "GET /draw",
    "page that explains": "GET /learn",
    "page to submit on": "GET /submit",
    "workers": "/v1/workers",
}
PAGES = ("/", "/draw", "/learn", "/submit")
BODIES = {"dry run": SMALL_JOB, "bulk by filter": {"action": "retry", "filter": {"labels": {"team": "x"}}}}


def main() -> None:
    options = parser(__doc__, "growth")
    options.add_argument("--jobs", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=40, help="how often each call is made")
    options.add_argument("--database", help="URL of an empty database; by default an SQLite file of its own")
    asked = options.parse_args()
    with TemporaryDirectory(prefix="gradq-bench-") as folder:
        few = timed(f"sqlite:///{folder}/few.db", max(asked.jobs // 100, 10), asked.rounds)
        url = asked.database or f"sqlite:///{folder}/many.db"
        many = timed(url, asked.jobs, asked.rounds)
    slowest = max(many, key=lambda name: many[name]["p95"])
    figures: Figures = {
        "jobs": asked.jobs,
        "rounds": asked.rounds,
        "database": url.partition(":")[0],
        "milliseconds": many,
        "milliseconds_of_a_hundredth": {name: found["median"] for name, found in few.items()},
        "slowest": slowest,
        "claim_holds": many[slowest]["p95"] < MOST_MS,
    }
    publish("growth", CLAIM, figures, asked.save)


def timed(url: str, jobs: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each call in a service with so many jobs."""
    database = Database(url)
    database.migrate()
    began = time.perf_counter()
    oldest = fill(database, jobs)
    database.checkpoint_wal()
    database.close()
    say(f"{jobs} jobs inserted in {time.perf_counter() - began:.0f} s")
    with api(GRADQ_DATABASE_URL=url, GRADQ_LOG_LEVEL="warning") as client, httpx2.Client(base_url=client.url) as http:
        found = {name: of_call(http, name, call.format(oldest=oldest), rounds) for name, call in CALLS.items()}
    for name, figures in found.items():
        say(f"{figures['median']:8.1f} {figures['p95']:8.1f} ms  {name}")
    return found


def of_call(http: httpx2.Client, name: str, call: str, rounds: int) -> dict[str, float]:
    method, path = call.split() if " " in call else ("GET", call)
    headers = {"Accept": "text/html"} if path in PAGES else {}
    spent = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        http.request(method, path, headers=headers, json=BODIES.get(name)).raise_for_status()
        spent.append(1000 * (time.perf_counter() - began))
    return summary(spent[2:])  # the first two fill caches


def fill(database: Database, jobs: int, first: int = 0) -> str:
    """Insert jobs as a service has them after months: ended ones mostly, each with a name, labels and a result of its
    own, and with a row in the audit log. Returns the id of the oldest one. `first`: the number of those that the
    database has already."""
    numbers = iter(range(first, jobs))
    oldest = ""
    while batch := [job(number) for number in islice(numbers, BATCH)]:
        oldest = oldest or batch[0]["id"]
        with database.write() as session:
            connection = session.connection()
            connection.execute(insert(Job), batch)
            connection.execute(insert(JobLabel), list(labels_of(batch)))
            names = [{"id": number, "name": row["name"]} for number, row in enumerate(batch, first + 1)]
            first += len(batch)
            connection.execute(insert(JobName), names)
            rows = [{"gram": gram, "name_id": name["id"]} for name in names for gram in grams(name["name"])]
            connection.execute(insert(NameGram), rows)
            connection.execute(insert(AuditRow), [audited(row) for row in batch])
    if not database.is_sqlite:
        with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")  # as PostgreSQL does by itself within a minute
    return oldest


def labels_of(batch: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    for row in batch:
        for key, value in row["labels"].items():
            yield {"key": key, "value": value, "job_id": row["id"]}


def audited(row: dict[str, Any]) -> dict[str, Any]:
    action = "jobs.submit" if row["owner"] != "eve" else "jobs.submit_walk"
    named = {"owner": row["owner"], "object_id": row["id"], "action": action}
    return {"id": row["id"].replace("job", "aud"), "at": row["created_at"], "status": 202, **named}


@functools.cache
def example() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLE.read_text())["succeeded"]
    return found


def job(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    at = FIRST + number * MINUTES
    state = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    name, labels = f"mnist sweep {number * FACTOR % 16**6:06x}", {"team": rng.choice("abc"), "run": str(number)}
    return {
        "id": f"job_{uuid6.UUID(int=at_number(at, rng)).hex}",
        "owner": rng.choice(OWNERS),
        "name": name,
        "kind": "training",
        "state": state,
        "spec": {**example()["spec"], "name": name, "labels": labels},
        "labels": labels,
        "priority": 50,
        "device": "cpu",
        "attempt": int(state != "queued"),
        "failures": 0,
        "result": example()["result"] if state == "succeeded" else None,
        "progress": example()["progress"],
        "last_seq": 1,
        "created_at": at,
        "started_at": at,
        "finished_at": None if state == "queued" else at + MINUTES,
    }


def at_number(at: datetime, rng: random.Random) -> int:
    """A UUID of version 7 of this time, as a number."""
    milliseconds = int(at.timestamp() * 1000)
    return milliseconds << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62)


if __name__ == "__main__":
    main()
