"""The verbs that read and steer jobs: ps, show, wait, cancel, pause, resume, download."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gradq.article import print_article
from gradq.client import DEFAULT_URL, Client
from gradq.job import Job
from gradq.options import AsJson, Exit, JobId, JobIds, Token, Url, as_list, outcome, print_json
from gradq.problems import ApiError, Unreachable
from gradq.proof import print_check
from gradq.tables import file_line, job_page, jobs_table, summary_line

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0
PATIENCE_SECONDS = 60.0  # how long a service may be away in the middle of a wait

T = TypeVar("T")


def ps(
    status: Annotated[str | None, typer.Option(help="Only these states: failed,cancelled")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=100, help="At most this many.")] = 20,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with Client(url, token) as client:
        page = client.page(limit=limit, status=status)
    if as_json:
        print_json(page)
    else:
        jobs_table(page["data"])


def show(job_id: JobId, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show one job: state, progress, result, files."""
    with Client(url, token) as client:
        job = client.job(job_id)
        if as_json:
            print_json(job)
        else:
            job_page(job, job.artifacts())
            print_check((job.get("result") or {}).get("gradient_check") if job["kind"] == "gradient_check" else None)
            if "article" in job:
                print_article(job, job.metrics(max_points=1000))


def wait(
    job_ids: JobIds,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds; then exit 124.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Wait until jobs have ended; a paused one has not.

    Exit codes: 0 all succeeded, 1 one failed, 3 one was cancelled, 124 timeout.
    """
    with Client(url, token) as client:
        jobs = wait_for(client, job_ids, timeout)
    if as_json:
        print_json(as_list(jobs))
    else:
        for job in jobs:
            print(summary_line(job))
    raise typer.Exit(outcome([job["status"] for job in jobs]))


def cancel(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Cancel jobs; one that runs ends after its checkpoint is written."""
    _steer(Job.cancel, job_ids, url, token, as_json)


def pause(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Pause running jobs: checkpoint, free the slot, wait for `resume`."""
    _steer(Job.pause, job_ids, url, token, as_json)


def resume(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Queue paused jobs again; they go on from their checkpoints."""
    _steer(Job.resume, job_ids, url, token, as_json)


def _steer(action: Callable[[Job], Job], job_ids: list[str], url: str, token: str | None, as_json: bool) -> None:
    with Client(url, token) as client:
        jobs = [action(client.job(job_id, fetch=False)) for job_id in job_ids]
    if as_json:
        print_json(as_list(jobs))
    else:
        for job in jobs:
            print(summary_line(job))


def download(
    job_id: JobId,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME…]", help="Files; default: all.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder. Default: the job's id.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a job's files: model, curves, metrics. Each is checked by sha256."""
    with Client(url, token) as client:
        job = client.job(job_id, fetch=False)
        artifacts = job.artifacts()
        there = [artifact["name"] for artifact in artifacts]
        if missing := [name for name in names or [] if name not in there]:
            known = ", ".join(there) or "none yet"
            raise typer.BadParameter(f"{job_id} has no file {', '.join(missing)}; its files: {known}")
        wanted = [artifact for artifact in artifacts if not names or artifact["name"] in names]
        files = job.download(output or Path(job_id), [artifact["name"] for artifact in wanted])
    if as_json:
        print_json(as_list([{**artifact, "path": str(path)} for artifact, path in zip(wanted, files, strict=True)]))
        return
    for artifact, path in zip(wanted, files, strict=True):
        print(file_line(artifact, path))
    if not files:
        print(f"gradq: {job_id} has no files yet; they come when it succeeds", file=sys.stderr)
        raise typer.Exit(Exit.FAILED)


def wait_for(client: Client, job_ids: list[str], timeout: float | None) -> list[Job]:
    """The jobs as they ended, in the order given. Exits with 124 when time is over before."""
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    jobs = [client.job(job_id) for job_id in job_ids]  # an unknown id is an error now, not after the others
    for i, job in enumerate(jobs):
        pause, status = FIRST_PAUSE_SECONDS, ""
        while not job["terminal"]:
            if job["status"] == "paused" and status != "paused":
                print(f"gradq: {job['id']} is paused; `gradq resume {job['id']}` lets it go on", file=sys.stderr)
            status = job["status"]
            left = deadline - time.monotonic()
            if left <= 0:
                going = ", ".join(j["id"] for j in jobs if not j["terminal"])
                print(f"gradq: not ended after {timeout:g} s: {going}", file=sys.stderr)
                raise typer.Exit(Exit.TIMEOUT)
            time.sleep(min(pause, left))
            pause = min(pause * 1.3, LONGEST_PAUSE_SECONDS)
            job = jobs[i] = patiently(partial(client.job, job["id"]), deadline)
    return jobs


def patiently(call: Callable[[], T], deadline: float = float("inf")) -> T:
    """What `call` answers; a service that restarts in the middle of a long wait is no reason to lose it."""
    give_up = min(deadline, time.monotonic() + PATIENCE_SECONDS)
    while True:
        try:
            return call()
        except (Unreachable, ApiError) as error:
            away = isinstance(error, Unreachable) or error.status == 503
            if not away or time.monotonic() >= give_up:
                raise
        time.sleep(LONGEST_PAUSE_SECONDS / 2)
