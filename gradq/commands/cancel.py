"""The verb `cancel`: end jobs."""

from __future__ import annotations

from gradq.client.blocking import DEFAULT_URL
from gradq.commands.each_job import each_job
from gradq.commands.options import AsJson, JobIds, Token, Url


def cancel(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Cancel jobs; a running one ends once its checkpoint is written."""
    each_job(job_ids, lambda job: dict(job.cancel()), url, token, as_json)
