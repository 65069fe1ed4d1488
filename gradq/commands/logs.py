"""The verb `logs`: print a job's event log; with -f, follow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, cast, get_args

import typer
from rich.text import Text

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.events import Event, EventType, Level
from gradq.client.job import Job
from gradq.commands.completion import among
from gradq.commands.options import AsJson, Exit, JobId, Token, Url, print_json_line
from gradq.commands.plain_console import PlainConsole
from gradq.commands.wait import PATIENCE_SECONDS

TYPES: tuple[str, ...] = get_args(EventType)
LEVELS: tuple[str, ...] = get_args(Level)
STYLES = {"warning": "yellow", "error": "red"}
SAID = {"metric": ("step", "metrics", "series"), "status": ("status",)}  # fields that the message repeats


def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow the log until the job has ended.")] = False,
    type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help=f"This type alone: {', '.join(TYPES)}.", autocompletion=among(*TYPES)),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="This and above: info, warning, error.", autocompletion=among(*LEVELS)),
    ] = None,
    after: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Lines after this one alone.")] = 0,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's event log; -f follows it until the end.

    With --json each line is a JSON object; --after takes its `seq`.
    """
    kind = cast("EventType | None", _one_of(type, TYPES, "--type"))
    least = _one_of(level, LEVELS, "--level") or LEVELS[0]
    console = PlainConsole()
    with Client(url, token) as client:
        try:
            lines = _lines(client.job(job_id, patience=PATIENCE_SECONDS if follow else 0.0), kind, after, follow)
            for event in _at_least(least, lines):
                print_json_line(event.json) if as_json else console.print(line_of(event), soft_wrap=True)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


def _lines(job: Job, kind: EventType | None, after: int, follow: bool) -> Iterable[Event]:
    return job.watch(after, kind) if follow else job.events(after, kind)


def _at_least(level: str, events: Iterable[Event]) -> Iterator[Event]:
    return (event for event in events if LEVELS.index(event.level) >= LEVELS.index(level))


def line_of(event: Event) -> Text:
    """`2026-11-24 12:00:01.123  metric  step 20: train_loss 0.51  epoch=1`, in UTC."""
    time = event.created_at.partition("T")[2].removesuffix("Z")
    words = [f"{event.type:<10}", event.message, *_facts(event)]
    line = f"{event.created_at[:10]} {time}  " + "  ".join(word for word in words if word)
    return Text(line, STYLES.get(event.level, ""))


def _facts(event: Event) -> list[str]:
    """The other fields of the line that are short."""
    hidden = SAID.get(event.type, ())
    return [f"{key}={value}" for key, value in event.data.items() if key not in hidden and _is_short(value)]


def _is_short(value: Any) -> bool:
    return isinstance(value, int | float | bool) or (isinstance(value, str) and len(value) <= 80 and "\n" not in value)


def _one_of(word: str | None, words: tuple[str, ...], option: str) -> str | None:
    if word is not None and word not in words:
        raise typer.BadParameter(f"must be one of {', '.join(words)}, got {word!r}", param_hint=option)
    return word
