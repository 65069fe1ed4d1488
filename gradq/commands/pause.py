"""The verb `pause`: stop jobs at a checkpoint."""

from __future__ import annotations

from gradq.client.blocking import DEFAULT_URL
from gradq.commands.each_job import each_job
from gradq.commands.options import AsJson, JobIds, Token, Url


def pause(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Pause running jobs: checkpoint, free the slot, wait for `resume`."""
    each_job(job_ids, lambda job: dict(job.pause()), url, token, as_json)
