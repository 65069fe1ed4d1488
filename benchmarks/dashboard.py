"""Seconds until a page of the dashboard is usable: the list of 1 000 jobs, and a job with 100 000 points.

Claim: the list within 1 s, the job within 1.5 s, on two cores, with an empty browser cache. A list is usable when its
scripts have run and its rows are painted; a job when its curve and the end of its log are painted. `zoomable`: when
plotly has replaced the sketch. Chromium runs on the same cores as the service.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy.orm import Session

from benchmarks.support import SMALL_JOB, Figures, api, parser, publish, say, summary
from shared.db.database import Database
from shared.db.tables import Job
from shared.jobs import joblog, jobs
from shared.jobs.joblog import Line
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec

CLAIM = "first visit: a list of 1000 jobs is usable within 1 s, a job with its curve of 100 000 points within 1.5 s"
JOBS, POINTS = 1000, 100_000
LIST_SECONDS, JOB_SECONDS = 1.0, 1.5
PER_EPOCH, EVERY = 100, 50  # points per epoch; steps between two points
SAMPLE = Path(__file__).parents[1] / "api" / "openapi" / "response_examples" / "Job.json"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]"
LIST = {
    "usable": f"{PAINTED} && document.readyState === 'complete' && document.querySelectorAll('tbody tr').length > 10"
}
CURVE, LOG = "document.querySelector('#loss-chart :is(polyline, .trace)')", "document.querySelector('#lines li')"
JOB = {
    "usable": f"{PAINTED} && {CURVE} && {LOG}",
    "zoomable": "document.querySelector('#loss-chart .trace')",
}
MARKS = {
    "first_paint": f"{PAINTED}.startTime",
    "scripts_run": "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd",
}


def main() -> None:
    options = parser(__doc__, "dashboard")
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    if (binary := shutil.which("chromium")) is None:
        say("not run: this benchmark needs chromium, which is not installed (Debian, Ubuntu: apt install chromium)")
        return
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
        url = f"sqlite:///{folder}/gradq.db"
        with api(GRADQ_DATABASE_URL=url) as client, browser(binary) as chromium:
            long_job = fill(Database(url))
            visits = {"list": ("/", LIST), "job": (f"/jobs/{long_job}", JOB)}
            found = {
                name: rounds(chromium, client.url + path, when, asked.rounds) for name, (path, when) in visits.items()
            }
    holds = found["list"]["usable"]["median"] <= LIST_SECONDS and found["job"]["usable"]["median"] <= JOB_SECONDS
    publish("dashboard", CLAIM, {"jobs": JOBS, "points": POINTS, **found, "claim_holds": holds}, asked.save)


@contextmanager
def browser(binary: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield chromium
        chromium.close()


def rounds(chromium: Browser, url: str, moments: dict[str, str], count: int) -> Figures:
    """Seconds since the start of the navigation, summarised over `count` visits. One visit before them is a warm-up."""
    seen = [visit(chromium, url, moments) for _ in range(count + 1)][1:]
    figures = {name: summary([each[name] for each in seen], 3) for name in seen[0]}
    say(f"{url.rpartition('/')[2] or 'list'}: usable after {figures['usable']['median']:.2f} s")
    return figures


def visit(chromium: Browser, url: str, moments: dict[str, str]) -> dict[str, float]:
    """Seconds until each of `moments`, JavaScript expressions, is true.

    `cpu`: CPU seconds of all processes until the last moment. `again`: seconds until `usable` on a second visit, with
    the files in the browser's cache.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    before = cpu_seconds()
    page.goto(url, wait_until="commit")
    found = {name: until(page, moment) for name, moment in moments.items()}
    found |= {"cpu": cpu_seconds() - before, **{name: page.evaluate(f"{at} / 1000") for name, at in MARKS.items()}}
    page.goto(url, wait_until="commit")
    found["again"] = until(page, moments["usable"])
    context.close()
    return found


def until(page: Page, moment: str) -> float:
    """Seconds until the expression is true. It is passed as a function, since the page's policy forbids eval."""
    seconds: float = page.wait_for_function(f"() => {moment} && performance.now() / 1000").json_value()
    return seconds


def cpu_seconds() -> float:
    """CPU seconds of the browser's and the server's processes so far; independent of other load on the machine."""
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))


# --- content of the database ------------------------------------------------------------------------------------------


def fill(database: Database) -> str:
    """Store JOBS jobs that have ended and one more with POINTS points; returns the id of the latter."""
    result = json.loads(SAMPLE.read_text())["succeeded"]["result"]
    with database.write() as session:
        for number in range(JOBS):
            store(session, result, 20, number)
        id = store(session, result, POINTS, JOBS).id
    database.close()
    return id


def store(session: Session, result: dict[str, Any], points: int, seed: int) -> Job:
    job = jobs.create(session, JobSpec.model_validate({**SMALL_JOB, "name": f"job {seed}", "seed": seed}))
    for first in range(1, points + 1, 10_000):
        lines = [point(number) for number in range(first, min(first + 10_000, points + 1))]
        joblog.insert_lines(session, job.id, 1, first + 1, lines)
    epochs, steps = math.ceil(points / PER_EPOCH), points * EVERY
    progress = {"epoch": epochs, "epochs": epochs, "step": steps, "total_steps": steps}
    job.progress = {**progress, "examples_per_second": 1e5}
    job.state, job.result, job.last_seq = JobState.SUCCEEDED, result, points + 1
    job.started_at = job.finished_at = joblog.now()
    return job


def point(number: int) -> Line:
    step, epoch = number * EVERY, (number - 1) // PER_EPOCH + 1
    loss = 2 / math.sqrt(number) + 0.1 * math.sin(number)
    data = {"series": "batch", "step": step, "epoch": epoch, "metrics": {"batch_loss": loss}}
    return Line("metric", f"step {step}: batch_loss {loss:.4f}", data, series="batch", step=step)


if __name__ == "__main__":
    main()
