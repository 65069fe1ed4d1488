"""One action on each of several jobs or datasets: prints one line per id; a refusal does not stop the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from gradq.client.blocking import Client
from gradq.client.job import Job
from gradq.client.problems import ApiError
from gradq.commands.errors import in_words, problem_of
from gradq.commands.formatting import size, summary_line
from gradq.commands.options import Exit, as_list, print_json

Outcome = dict[str, Any]  # `ok` with the job or the deletion; or `ok`, `id` and `error`, a problem


def each_job(job_ids: list[str], action: Callable[[Job], Outcome], url: str, token: str | None, as_json: bool) -> None:
    """Runs the action on each job, as `one_by_one`. The jobs are not fetched first."""
    with Client(url, token) as client:
        one_by_one(job_ids, lambda job_id: action(client.job(job_id, fetch=False)), as_json)


def one_by_one(ids: list[str], action: Callable[[str], Outcome], as_json: bool) -> None:
    """Runs the action on each id and prints its outcome; raises typer.Exit with 1 if the service refused any."""
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


def deleted(what: str, id: str, freed_bytes: int) -> Outcome:
    """The outcome of a deletion. `what`: job or dataset."""
    return {"object": what, "id": id, "deleted": True, "freed_bytes": freed_bytes}


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
