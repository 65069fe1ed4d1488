"""Shell completion of verbs, options, ids and names. Asks the service with a short timeout; its errors are ignored."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

SECONDS = 1.0  # timeout of the request
MOST = 50
VARIABLE = "_GRADQ_COMPLETE"  # set by the shell when it asks for completions
STATES = ("queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled")
FITTING = {  # states of the jobs that a verb accepts; other verbs take any job
    "cancel": "queued,running,pausing,paused",
    "pause": "running",
    "resume": "paused,pausing",
    "retry": "failed,cancelled",
    "rm": "succeeded,failed,cancelled",
    "wait": "queued,running,pausing,paused,cancelling",
    **dict.fromkeys(("download", "predict", "reproduce"), "succeeded"),
}

Rows = list[dict[str, Any]]


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.", show_default=False)]) -> None:
    """Print the shell's completion script.

    bash: `source <(gradq completion bash)`, now or in ~/.bashrc. zsh: the same
    with `zsh`. fish: `gradq completion fish | source`.
    """
    from typer.completion import get_completion_script

    script = get_completion_script(prog_name="gradq", complete_var=VARIABLE, shell=shell.value)  # not a command  # nosec B604
    print(script)


def complete_job(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of jobs that the verb accepts, newest first, each with its name and state."""
    wanted = FITTING.get(ctx.info_name or "")
    page = _ask(ctx, lambda client: client.page(limit=MOST, status=wanted)["data"])
    given = set(ctx.params.get("job_ids") or ())
    return [
        (job["id"], f"{job['name']}, {job['status']}")
        for job in page
        if job["id"].startswith(incomplete) and job["id"] not in given
    ]


def complete_dataset(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    found = _ask(ctx, lambda client: client.datasets())
    return [(row["id"], row["description"]) for row in found if row["id"].startswith(incomplete)]


def complete_uploaded(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    return [(name, text) for name, text in complete_dataset(ctx, incomplete) if name.startswith("ds_")]


def complete_preset(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    found = _ask(ctx, lambda client: client.presets())
    return [(row["name"], row["description"]) for row in found if row["name"].startswith(incomplete)]


def complete_file(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the files of the job that was typed before them."""
    job_id = ctx.params.get("job_id")
    found = _ask(ctx, lambda client: client.job(str(job_id), fetch=False).artifacts()) if job_id else []
    return [row["name"] for row in found if row["name"].startswith(incomplete)]


def complete_state(incomplete: str) -> list[str]:
    """The states; after a comma, one more."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{state}" for state in STATES if state.startswith(last)]


def among(*words: str) -> Callable[[str], list[str]]:
    """Completes one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _ask(ctx: typer.Context, question: Callable[[Any], Rows]) -> Rows:
    """The answer; an empty list on errors, which a shell could not show."""
    from gradq.client.blocking import Client
    from gradq.client.problems import ClientError

    try:
        with Client(ctx.params.get("url"), ctx.params.get("token"), timeout=SECONDS, retries=0) as client:
            return question(client)
    except ClientError:
        return []
