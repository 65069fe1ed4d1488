"""What the command line prints about rows and messages whose texts a terminal would obey: escaped, in a pipe and on a
terminal, and as JSON with JSON's escapes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.progress import Progress, TextColumn
from sqlalchemy import select, update
from typer.testing import Result

from gradq.client.blocking import Client
from gradq.commands.guarded_output import guarded_output
from gradq.commands.plain_console import PlainConsole
from gradq.commands.plain_text import escaped, escaped_lines
from shared.db.tables import Job, Worker
from shared.jobs import queue
from shared.jobs.joblog import Line, now

HOSTILE = "x\x1b[2J\x9b31m\x9d0;t\x85y\u202ez\u2028\ufffe\U0001fffe[link=http://a.invalid][b]"
SHOWN = "x\\x1b[2J\\x9b31m\\x9d0;t\\x85y\\u202ez\\u2028\\ufffe\\U0001fffe[link=http://a.invalid][b]"
OURS = ("\x1b[2K", "\x1b[?25l", "\x1b[?25h", "\r")  # rich's: of the line, of the cursor

SHOW_TEXTS = ("ps", "show ID", "logs ID", "workers")

Gradq = Callable[..., Result]


@pytest.fixture
def old(api) -> str:
    """The id of a running job, in a database in which every text is hostile."""
    job_id = api.submit(seed=1)
    lease = api.start()
    api.point(lease, 5, 1, train_loss=0.5)
    waiting = api.submit(seed=2)
    labels = {HOSTILE: HOSTILE}
    with api.database.write() as session:
        queue.append(session, lease, [Line("log", HOSTILE, {"said": HOSTILE, HOSTILE: 1}, level="error")])
        for job in session.scalars(select(Job)):
            job.name, job.labels = HOSTILE, labels
            job.spec = {**job.spec, "name": HOSTILE, "labels": labels}
        session.execute(
            update(Job).where(Job.id == waiting).values(status_reason={"code": "retrying", "detail": HOSTILE})
        )
        session.add(
            Worker(
                id=HOSTILE,
                host=HOSTILE,
                pid=1,
                devices={"kinds": ["cpu"], "slots": [{"name": HOSTILE, "kind": "cpu"}]},
                slots=1,
                free_slots=1,
                version=HOSTILE[:32],
                started_at=now(),
                seen_at=now(),
                draining=False,
            )
        )
    return job_id


def test_rows_that_are_older_than_the_rule_are_read(api, old):
    assert api.client.job(old)["name"] == HOSTILE


@pytest.mark.parametrize("terminal", [False, True])
def test_no_verb_prints_such_a_text_as_it_is(gradq: Gradq, monkeypatch, old: str, terminal: bool):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    ours = OURS if terminal else ()
    for verb in (
        "ps",
        "show ID",
        "logs ID",
        "compare ID ID",
        "workers",
        "pause ID",
        "cancel ID",
        "wait ID --timeout 0",
    ):
        text = gradq(*verb.replace("ID", old).split()).output
        for code in ours:
            text = text.replace(code, "")
        assert escaped_lines(text, coloured=terminal) == text, verb
        assert terminal or SHOWN[:30] in text or "pause" in verb or "wait" in verb, text


def test_json_has_the_text_itself_in_escapes_of_json(gradq: Gradq, old: str):
    for verb in SHOW_TEXTS:
        text = gradq(*verb.replace("ID", old).split(), "--json").stdout
        assert escaped_lines(text) == text
        found = [json.loads(line) for line in text.splitlines()] if verb.startswith("logs") else json.loads(text)
        assert json.dumps(HOSTILE)[1:-1] in json.dumps(found)


def test_messages_of_others_are_escaped(gradq: Gradq, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(5, HOSTILE)

    monkeypatch.setattr(Client, "page", refuse)
    monkeypatch.setattr(Client, "jobs", refuse)
    result = gradq("ps")
    assert (result.exit_code, result.stderr) == (1, f"gradq: {SHOWN}\n")
    assert json.loads(gradq("ps", "--json").stderr)["detail"] == HOSTILE


def test_bars_and_tables_take_no_text_for_markup(capsys):
    with guarded_output():
        console = PlainConsole(force_terminal=True, color_system=None, width=300)
        console.print(HOSTILE, "[red]x[/red]", ":warning:")
        with Progress(TextColumn("{task.description}", markup=False), console=console, auto_refresh=False) as bars:
            bars.add_task(escaped(HOSTILE))
    text = capsys.readouterr().out
    assert text.count(SHOWN) >= 2
    assert "[red]x[/red] :warning:" in text


def test_every_part_of_the_command_line_writes_through_the_guard(capsys):
    with guarded_output():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
    print("\x9b is written as it is afterwards")
    captured = capsys.readouterr()
    assert captured.err == f"{SHOWN}\n"
    assert captured.out == f"{SHOWN}\n\x9b is written as it is afterwards\n"
