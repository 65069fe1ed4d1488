"""The verb `wait`, and waiting for other verbs: until jobs have ended, with one progress bar per job on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.job import Job
from gradq.client.problems import ClientError, WaitTimeout, is_away
from gradq.commands.failure import CommandError
from gradq.commands.formatting import progress_words, summary_line
from gradq.commands.options import AsJson, Exit, JobIds, Token, Url, as_list, outcome, print_json
from gradq.commands.plain_text import escaped
from gradq.commands.tables import is_pipe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

GLANCE_SECONDS = 0.5  # between two updates of the bars
HOLD_SECONDS = 5.0  # of one wait, after which the job is checked for a pause
PATIENCE_SECONDS = 60.0  # how long the service may be away during a wait
PAUSE_SECONDS = 0.5  # between two tries meanwhile

T = TypeVar("T")


class StillGoing(CommandError):
    code, exit = "wait_timeout", Exit.TIMEOUT


def wait(
    job_ids: JobIds,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Exit 124 after this time.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Wait until jobs have ended; a paused one has not.

    Exit codes: 0 all succeeded, 1 one failed, 3 one was cancelled, 4 the service
    was away for a minute, 124 timeout.
    """
    with Client(url, token) as client:
        jobs = wait_for(client, job_ids, timeout)
    if as_json:
        print_json(as_list(jobs))
    else:
        for job in jobs:
            print(summary_line(job))
    raise typer.Exit(outcome([job["status"] for job in jobs]))


def wait_for(client: Client, job_ids: list[str], timeout: float | None, console: Console | None = None) -> list[Job]:
    """The ended jobs, in the order given. Raises StillGoing after `timeout` seconds. Bars go to stderr."""
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    patience = min(PATIENCE_SECONDS, deadline - time.monotonic())
    jobs = [client.job(job_id, patience=patience) for job_id in job_ids]  # so that an unknown id fails at once
    if console is None and not is_pipe(sys.stderr):
        from gradq.commands.plain_console import PlainConsole

        console = PlainConsole(stderr=True)
    if console is not None and console.is_terminal:
        ended = _with_bars(jobs, deadline, console)
    else:
        ended = all(_ended(job, deadline) for job in jobs)
    if not ended:
        going = ", ".join(job["id"] for job in jobs if not job["terminal"])
        raise StillGoing(f"not ended after {timeout:g} s: {going}")
    return jobs


def _ended(job: Job, deadline: float) -> bool:
    """Waits until the job has ended; False after the deadline. Prints a hint when the job is paused."""
    told, answered_at = False, time.monotonic()
    while not job["terminal"]:
        if job["status"] == "paused" and not told:
            told = True
            print(f"gradq: {job['id']} is paused; `gradq resume {job['id']}` continues it", file=sys.stderr)
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        try:
            job.wait(timeout=min(left, HOLD_SECONDS))
        except WaitTimeout as late:
            if not isinstance(late.__cause__, ClientError):
                answered_at = time.monotonic()
            elif time.monotonic() - answered_at > PATIENCE_SECONDS:
                raise late.__cause__ from None
    return True


def _with_bars(jobs: list[Job], deadline: float, console: Console) -> bool:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Progress(*columns, console=console, auto_refresh=False) as bars:
        tasks = [bars.add_task(escaped(job["name"])[:32], total=100, facts="") for job in jobs]
        while True:
            for job, task in zip(jobs, tasks, strict=True):
                _move(bars, task, job)
            bars.refresh()
            going = [job for job in jobs if not job["terminal"]]
            left = deadline - time.monotonic()
            if not going or left <= 0:
                return not going
            time.sleep(min(GLANCE_SECONDS, left))
            for job in going:
                patiently(job.refresh, deadline)


def _move(bars: Progress, task: TaskID, job: Job) -> None:
    done = 100.0 if job["status"] == "succeeded" else (job["progress"] or {}).get("percent", 0.0)
    bars.update(task, completed=done, facts="  ".join([job["status"], *progress_words(job)]))


def patiently(call: Callable[[], T], deadline: float = float("inf")) -> T:
    """What `call` returns. Retries for up to PATIENCE_SECONDS while the service is away; it may restart."""
    give_up = min(deadline, time.monotonic() + PATIENCE_SECONDS)
    while True:
        try:
            return call()
        except ClientError as error:
            if not is_away(error) or time.monotonic() >= give_up:
                raise
        time.sleep(PAUSE_SECONDS)
