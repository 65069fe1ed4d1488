"""The verb `rm`: delete ended jobs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gradq.client.blocking import DEFAULT_URL
from gradq.commands.each_job import deleted, each_job
from gradq.commands.options import AsJson, Exit, JobIds, Token, Url


def rm(
    job_ids: JobIds,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete ended jobs, with their log, curve and files."""
    if not yes:
        confirm(
            "Delete this job and its files?" if len(job_ids) == 1 else f"Delete {len(job_ids)} jobs and their files?"
        )
    each_job(job_ids, lambda job: deleted("job", job.id, job.delete()), url, token, as_json)


def confirm(question: str) -> None:
    """Asks on stderr. Raises typer.Exit with 1 on a no, BadParameter where stdin is not a terminal."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("stdin is not a terminal, so gradq cannot ask; pass --yes", param_hint="--yes")
    if not typer.confirm(question, err=True):
        print("gradq: nothing was deleted", file=sys.stderr)
        raise typer.Exit(Exit.FAILED)
