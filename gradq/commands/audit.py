"""The verb `audit`: list the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.options import AsJson, Token, Url, as_list, print_json
from gradq.commands.plain_console import PlainConsole
from gradq.commands.ps import moment
from gradq.commands.tables import audit_table


def audit(
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Entries of this owner alone.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="NAME", help="This action alone: jobs.submit, bulk.delete …")
    ] = None,
    on: Annotated[str | None, typer.Option(metavar="ID", help="This job or dataset alone.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Not older than 30m, 2h, 3d, or a date like 2026-11-24.")
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most N entries.", metavar="N")] = 20,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List the audit log, newest first: changes, and calls that were refused.

    Needs the scope admin if the service requires tokens.
    """
    after = moment(since) if since is not None else None
    with Client(url, token) as client:
        found = list(client.audit(owner=owner, action=action, object=on, since=after, limit=limit))
    if as_json:
        print_json(as_list(found))
    elif found:
        audit_table(found, PlainConsole())
    else:
        print("no such entry")
