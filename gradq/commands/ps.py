"""The verb `ps`: list jobs, once or repeatedly."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.completion import complete_state
from gradq.commands.formatting import CHECK, STYLES, WALK, Job, age, device_of, number, rough, summary_line
from gradq.commands.options import AsJson, Exit, Token, Url, as_list, pairs, print_json, print_json_line
from gradq.commands.plain_text import escaped
from gradq.commands.tables import default_console, is_pipe, plain, write_columns
from gradq.commands.wait import patiently

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

COLUMNS = ("id", "name", "status", "gradients", "epoch", "loss", "accuracy", "device", "age")
SHOWN = (  # least width of the terminal -> columns; an id is never truncated, since users copy it
    (120, COLUMNS),
    (100, ("id", "name", "status", "epoch", "accuracy", "age")),
    (80, ("id", "name", "status", "epoch", "age")),
    (0, ("id", "status")),
)
REFRESH_SECONDS = 1.0
UNITS = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def ps(
    status: Annotated[
        str | None, typer.Option(metavar="STATE,…", help="These states alone.", autocompletion=complete_state)
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="This name alone; * matches any text.")] = None,
    owner: Annotated[str | None, typer.Option(help="This owner's jobs alone; for admins.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("-l", "--label", metavar="K=V", help="Jobs with this label. Repeatable.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Not older than 30m, 2h, 3d, or a date like 2026-11-24.")
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most N jobs.", metavar="N")] = 20,
    all_: Annotated[bool, typer.Option("-a", "--all", help="All jobs; ignores --limit.")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print ids alone: gradq cancel $(gradq ps -q …).")
    ] = False,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Keep running and show changes; Ctrl-C ends.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    --watch redraws the table; in a pipe it prints one line, with --json one
    JSON object, per change of a job's state.
    """
    filter: dict[str, Any] = {"status": status, "name": name, "owner": owner, "labels": pairs(label, "--label") or None}
    filter |= {"created_after": moment(since) if since is not None else None}
    with Client(url, token) as client:
        if not watch:
            jobs = list(client.jobs(limit=None if all_ else limit, **filter))
            if as_json:
                print_json(as_list(jobs))
            elif quiet:
                print("".join(f"{job['id']}\n" for job in jobs), end="")
            else:
                jobs_table(jobs)
            return
        from gradq.commands.plain_console import PlainConsole

        try:
            show(seen(client, None if all_ else limit, filter), PlainConsole(), as_json)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


def seen(client: Client, limit: int | None, filter: dict[str, Any]) -> Iterator[list[Job]]:
    """Yields the list of jobs once per REFRESH_SECONDS, without end."""
    while True:
        yield list(patiently(lambda: list(client.jobs(limit=limit, **filter))))
        time.sleep(REFRESH_SECONDS)


def show(lists: Iterator[list[Job]], console: Console, as_json: bool) -> None:
    """Redraws the table for each list; in a pipe, or with --json, prints the changes."""
    if console.is_terminal and not as_json:
        from rich.live import Live

        with Live(console=console, auto_refresh=False, screen=True) as live:
            for jobs in lists:
                live.update(jobs_picture(jobs[: console.height - 1], console.width), refresh=True)
        return
    for job in changed(lists):
        print_json_line(job) if as_json else print(summary_line(job), flush=True)


def changed(lists: Iterator[list[Job]]) -> Iterator[Job]:
    """Yields each job when it is first listed and when its state has changed; oldest first."""
    known: dict[str, str] = {}
    for jobs in lists:
        for job in reversed(jobs):
            if known.get(job["id"]) != job["status"]:
                known[job["id"]] = job["status"]
                yield job


def moment(text: str, now: datetime | None = None) -> datetime:
    """The time that `2h` ago was, or of an ISO 8601 date or time, local if it names no zone. Raises BadParameter."""
    now = now or datetime.now(UTC)
    ago = AGO.fullmatch(text.strip())
    try:
        if ago and ago[2] in UNITS:
            return now - timedelta(**{UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(f"{text!r} is neither an age (30m, 2h, 3d, 1w) nor a date", param_hint="--since")


# --- the table --------------------------------------------------------------------------------------------------------


def jobs_table(jobs: Sequence[Job], console: Console | None = None) -> None:
    if console is None and is_pipe(sys.stdout):
        write_columns([list(COLUMNS), *map(job_row, jobs)], sys.stdout)
        return
    console = console or default_console()
    if console.is_terminal:
        console.print(jobs_picture(jobs, console.width))
    else:
        plain([list(COLUMNS), *map(job_row, jobs)], console)


def jobs_picture(jobs: Sequence[Job], screen: int) -> RenderableType:
    """The table for a terminal of `screen` columns, without the columns that do not fit; ids are not truncated."""
    from rich.table import Table
    from rich.text import Text

    if not jobs:
        return Text("no such jobs; `gradq submit` queues one")
    rows = [job_row(job) for job in jobs]
    shown = next(columns for width, columns in SHOWN if screen >= width)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    longest = {column: max(map(len, [column, *cells])) for column, *cells in zip(COLUMNS, *rows, strict=True)}
    room = screen - sum(longest[column] + 1 for column in shown if column != "name") - 1
    for column in shown:
        justify: Literal["left", "right"] = "right" if column in ("epoch", "loss", "accuracy", "age") else "left"
        width = max(8, min(longest[column], room)) if column == "name" else longest[column]
        table.add_column(column, justify=justify, no_wrap=True, width=width)
    for row, job in zip(rows, jobs, strict=True):
        cells = dict(zip(COLUMNS, row, strict=True))
        styles = {"status": STYLES.get(job["status"], "")}
        table.add_row(*(Text(cells[column], style=styles.get(column, "")) for column in shown))
    return table


def job_row(job: Job) -> list[str]:
    result, progress = job.get("result") or {}, job.get("progress") or {}
    spec = job["spec"]
    rounds, gradients = {
        CHECK: (spec.get("batches"), "check"),
        WALK: (1, "walk"),
    }.get(job["kind"]) or (spec["epochs"], spec["gradients"])
    epochs = f"{progress['epoch']}/{progress['epochs']}" if progress else f"-/{rounds}"
    loss, accuracy = number(result.get("train_loss")), number(result.get("test_accuracy"))
    cells = [job["id"], job["name"], job["status"], gradients, epochs, loss, accuracy, device_of(job)]
    return [*(escaped(cell) or "-" for cell in cells), rough(age(job["created_at"]))]
