"""The verbs that steer jobs: cancel, pause, resume, retry, update, rm. Several ids, a line each; one that is refused
does not keep the others from it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.job import Job
from gradq.client.problems import ApiError
from gradq.commands.errors import in_words, problem_of
from gradq.commands.options import AsJson, Exit, JobIds, Token, Url, as_list, print_json
from gradq.commands.words import size, summary_line

Outcome = dict[str, Any]  # the job or what is left of it, with `ok`; or `id` and `error`, a problem


def cancel(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Cancel jobs; one that runs ends after its checkpoint is written."""
    _each(job_ids, lambda job: dict(job.cancel()), url, token, as_json)


def pause(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Pause running jobs: checkpoint, free the slot, wait for `resume`."""
    _each(job_ids, lambda job: dict(job.pause()), url, token, as_json)


def resume(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Queue paused jobs again; they go on from their checkpoints."""
    _each(job_ids, lambda job: dict(job.resume()), url, token, as_json)


def retry(job_ids: JobIds, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Queue failed or cancelled jobs again, under their own ids."""
    _each(job_ids, lambda job: dict(job.retry()), url, token, as_json)


def update(
    job_ids: JobIds,
    priority: Annotated[int | None, typer.Option(min=0, max=100, help="0 to 100; higher goes first.")] = None,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("-l", "--label", metavar="K=V", help="Set a label; K= takes it away.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Change jobs' priority, name or labels."""
    labels = {key: value or None for key, value in (_label(text) for text in label or [])}
    if priority is None and name is None and not labels:
        raise typer.BadParameter("say what to change: --priority, --name or --label")
    changes: dict[str, Any] = {"priority": priority, "name": name, "labels": labels or None}
    _each(job_ids, lambda job: dict(job.update(**changes)), url, token, as_json)


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
    _each(job_ids, lambda job: deleted("job", job.id, job.delete()), url, token, as_json)


def confirm(question: str) -> None:
    """Ask, on stderr; where nobody can answer, --yes has to."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to be asked; say --yes", param_hint="--yes")
    if not typer.confirm(question, err=True):
        print("gradq: nothing was deleted", file=sys.stderr)
        raise typer.Exit(Exit.FAILED)


def deleted(what: str, id: str, freed_bytes: int) -> Outcome:
    return {"object": what, "id": id, "deleted": True, "freed_bytes": freed_bytes}


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise typer.BadParameter(f"must be KEY=VALUE, or KEY= to take it away, got {text!r}", param_hint="--label")
    return key, value


def _each(job_ids: list[str], action: Callable[[Job], Outcome], url: str, token: str | None, as_json: bool) -> None:
    with Client(url, token) as client:
        one_by_one(job_ids, lambda job_id: action(client.job(job_id, fetch=False)), as_json)


def one_by_one(ids: list[str], action: Callable[[str], Outcome], as_json: bool) -> None:
    """The action on each, and what came of it; exit 1 where one was refused."""
    outcomes = []
    for id in ids:
        outcome = _tried(id, action, as_json)
        outcomes.append(outcome)
        if outcome["ok"] and not as_json:
            print(_line(outcome), flush=True)
    if as_json:
        print_json(as_list(outcomes))
    if not all(outcome["ok"] for outcome in outcomes):
        raise typer.Exit(Exit.FAILED)


def _tried(id: str, action: Callable[[str], Outcome], as_json: bool) -> Outcome:
    try:
        return {**action(id), "ok": True}
    except ApiError as error:
        if not as_json:
            print(f"gradq: {id}: {in_words(error)}", file=sys.stderr, flush=True)
        return {"id": id, "ok": False, "error": problem_of(error)}


def _line(outcome: Outcome) -> str:
    if outcome.get("deleted"):
        return f"{outcome['id']}  deleted, {size(outcome['freed_bytes'])} freed"
    return summary_line(outcome)
