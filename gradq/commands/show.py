"""The verb `show`: one job in detail."""

from __future__ import annotations

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.article_comparison import print_article
from gradq.commands.formatting import CHECK
from gradq.commands.gradient_table import print_check
from gradq.commands.job_summary import job_page
from gradq.commands.options import AsJson, JobId, Token, Url, print_json

POINTS = 1000  # of a curve; only its ends are shown


def show(job_id: JobId, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Show one job: state, why it waits, progress, attempts, result, files."""
    with Client(url, token) as client:
        job = client.job(job_id)
        if as_json:
            print_json(job)
            return
        job_page(job, job.artifacts())
        if job["kind"] == CHECK:
            print_check((job.get("result") or {}).get("gradient_check"))
        if job.get("article"):
            print_article(job, job.metrics(max_points=POINTS))
