"""The verb `doctor`: find what is wrong with gradq here, and how to fix it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradq.commands.options import AsJson, Exit, Token, print_json
from gradq.commands.plain_console import PlainConsole

if TYPE_CHECKING:
    from gradq.commands.checkups.finding import Finding

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    state: Annotated[Path | None, typer.Option(help="The service's folder. [GRADQ_STATE_DIR]")] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="GRADQ_URL", metavar="URL", help="The service. Default: the one in the folder.", show_default=False
        ),
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with gradq here, and how to fix it.

    Works next to a running `gradq up`, with a service elsewhere, and with none.
    Exit codes: 0 no problem, 1 one or more.
    """
    from gradq.commands.checkups import examine  # imports SQLAlchemy, alembic and redis
    from gradq.commands.checkups.targets import Targets
    from shared.config import Settings

    settings = Settings.from_env(**({} if state is None else {"state_dir": state}))
    own = settings.admin_token.get_secret_value() if settings.admin_token is not None and url is None else None
    findings = examine(
        Targets(settings, url, token or own)
    )  # the admin token is sent to this machine's own service alone
    problems = [finding for finding in findings if finding.verdict == "problem"]
    if as_json:
        print_json(_report(findings, not problems))
    else:
        _print(findings, PlainConsole())
    raise typer.Exit(Exit.FAILED if problems else Exit.SUCCEEDED)


def _report(findings: list[Finding], ok: bool) -> dict[str, Any]:
    return {"object": "checkup", "ok": ok, "checks": [finding.to_json() for finding in findings]}


def _print(findings: list[Finding], console: Console) -> None:
    """Verdict, check and details; wrapped on a terminal, unwrapped in a pipe."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        lines = [finding.detail, *([f"→ {finding.mend}"] if finding.mend else [])]
        if console.is_terminal:
            verdict = Text(finding.verdict, STYLES[finding.verdict])
            table.add_row(verdict, Text(finding.check, "bold"), Text("\n".join(lines)))
        else:
            print(f"{finding.verdict:<8} {finding.check}: " + f"\n{'':<9}".join(lines))
    if console.is_terminal:
        console.print(table)
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in STYLES}
    print(f"\n{_count(counts['problem'], 'problem')}, {_count(counts['warning'], 'warning')}")


def _count(n: int, noun: str) -> str:
    return f"no {noun}" if n == 0 else f"1 {noun}" if n == 1 else f"{n} {noun}s"
