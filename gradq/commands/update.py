"""The verb `update`: change the priority, name or labels of jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gradq.client.blocking import DEFAULT_URL
from gradq.commands.each_job import each_job
from gradq.commands.options import AsJson, JobIds, Token, Url


def update(
    job_ids: JobIds,
    priority: Annotated[int | None, typer.Option(min=0, max=100, help="0 to 100; higher runs first.")] = None,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("-l", "--label", metavar="K=V", help="Set a label; K= removes it. Repeatable.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Change jobs' priority, name or labels."""
    labels = {key: value or None for key, value in (_label(text) for text in label or [])}
    if priority is None and name is None and not labels:
        raise typer.BadParameter("nothing to change; give --priority, --name or --label")
    changes: dict[str, Any] = {"priority": priority, "name": name, "labels": labels or None}
    each_job(job_ids, lambda job: dict(job.update(**changes)), url, token, as_json)


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise typer.BadParameter(f"must be KEY=VALUE, or KEY= to remove it, got {text!r}", param_hint="--label")
    return key, value
