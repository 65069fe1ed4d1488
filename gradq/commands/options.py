"""Options, exit codes and output helpers that several verbs share."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import Annotated, Any, TextIO

import typer

from gradq.commands.completion import complete_job
from gradq.commands.plain_text import escaped_json

Url = Annotated[str, typer.Option(envvar="GRADQ_URL", metavar="URL", help="Address of the service.")]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="GRADQ_TOKEN",
        metavar="TOKEN",
        help="Your token, if the service requires one. Prefer GRADQ_TOKEN: command lines are visible to other users.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
JobId = Annotated[
    str,
    typer.Argument(metavar="ID", help="The job's id, job_…", show_default=False, autocompletion=complete_job),
]
JobIds = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="One or more ids, job_…", show_default=False, autocompletion=complete_job),
]


class Exit(IntEnum):
    """The exit codes."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    AWAY = 4
    TIMEOUT = 124
    INTERRUPTED = 130


def outcome(statuses: list[str]) -> Exit:
    """The exit code for jobs with these statuses; a failed one takes precedence over a cancelled one."""
    if "failed" in statuses:
        return Exit.FAILED
    if "cancelled" in statuses:
        return Exit.CANCELLED
    return Exit.SUCCEEDED


def print_json(value: Any) -> None:
    ascii_only = not speaks_unicode(sys.stdout)
    text = json.dumps(value, indent=2, ensure_ascii=ascii_only, default=dict)
    print(escaped_json(text), flush=True)  # a Job is a mapping


def print_json_line(value: Any) -> None:
    """One value per line, flushed at once."""
    text = json.dumps(value, ensure_ascii=not speaks_unicode(sys.stdout), default=dict)
    print(escaped_json(text), flush=True)


def speaks_unicode(stream: TextIO) -> bool:
    """Whether the stream's encoding is a UTF. If not, JSON is written with escapes."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def as_list(rows: list[Any]) -> dict[str, Any]:
    return {"object": "list", "data": rows}


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """The key and value of each `K=V`. Raises BadParameter."""
    return dict(pair(text, option) for text in texts or [])


def pair(text: str, option: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise typer.BadParameter(f"must be KEY=VALUE, got {text!r}", param_hint=option)
    return key, value
