"""What the shell offers at a Tab: verbs, options, ids, names. Asks the service briefly; is silent when it is away."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

SECONDS = 1.0  # a Tab that takes longer is a Tab that hangs
MOST = 50
VARIABLE = "_GRADQ_COMPLETE"  # set by the shell while it asks
STATES = ("queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled")
FITTING = {  # what a verb can do something with; other verbs take any job
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

    For bash: `source <(gradq completion bash)`, now or in ~/.bashrc. zsh: the
    same with `zsh`. fish: `gradq completion fish | source`.
    """
    from typer.completion import get_completion_script

    script = get_completion_script(prog_name="gradq", complete_var=VARIABLE, shell=shell.value)  # a name  # nosec B604
    print(script)


def complete_job(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids, newest first, each with its name and state; those alone that the verb fits."""
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
    """Names of the files of the job that stands before them."""
    job_id = ctx.params.get("job_id")
    found = _ask(ctx, lambda client: client.job(str(job_id), fetch=False).artifacts()) if job_id else []
    return [row["name"] for row in found if row["name"].startswith(incomplete)]


def complete_state(incomplete: str) -> list[str]:
    """The states; after a comma the next one."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{state}" for state in STATES if state.startswith(last)]


def among(*words: str) -> Callable[[str], list[str]]:
    """Completes one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _ask(ctx: typer.Context, question: Callable[[Any], Rows]) -> Rows:
    """The answer, or nothing: a shell that waits for a word has no place for an error."""
    from gradq.client.blocking import Client
    from gradq.client.problems import ClientError

    try:
        with Client(ctx.params.get("url"), ctx.params.get("token"), timeout=SECONDS, retries=0) as client:
            return question(client)
    except ClientError:
        return []
