"""The verb `retry`: run failed or cancelled jobs again."""

from __future__ import annotations

from gradq.client.blocking import DEFAULT_URL
from gradq.commands.each_job import each_job
from gradq.commands.options import AsJson, JobIds, Token, Url


def retry(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Queue failed or cancelled jobs again, under their own ids."""
    each_job(job_ids, lambda job: dict(job.retry()), url, token, as_json)
