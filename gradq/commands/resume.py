"""The verb `resume`: continue paused jobs."""

from __future__ import annotations

from gradq.client.blocking import DEFAULT_URL
from gradq.commands.each_job import each_job
from gradq.commands.options import AsJson, JobIds, Token, Url


def resume(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Queue paused jobs again; they resume from their checkpoints."""
    each_job(job_ids, lambda job: dict(job.resume()), url, token, as_json)
