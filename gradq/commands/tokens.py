"""The verbs of `gradq token`: create, list, revoke. They open the service's database directly; the HTTP API does not
create tokens."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradq.commands.options import AsJson, as_list, print_json
from gradq.commands.plain_console import PlainConsole
from gradq.commands.ps import AGO, UNITS
from gradq.commands.tables import tokens_table
from gradq.commands.verbs import Verb, Verbs

if TYPE_CHECKING:
    from shared.db.database import Database
    from shared.db.tables import Token

app = typer.Typer(
    cls=Verbs,
    help="Create tokens, list them, revoke one.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
)

State = Annotated[Path | None, typer.Option(help="The service's folder. [GRADQ_STATE_DIR]")]


class Scope(StrEnum):
    read = "read"
    submit = "submit"
    admin = "admin"


@app.command(cls=Verb)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, by which it can be revoked.")],
    scope: Annotated[
        Scope, typer.Option(help="read; submit: also submit and change own jobs; admin: all jobs.")
    ] = Scope.submit,
    owner: Annotated[
        str | None, typer.Option(help="Owner of the jobs it submits. Default: the name.", show_default=False)
    ] = None,
    expires: Annotated[str, typer.Option(metavar="WHEN", help="90d, 12h, a date, or never.")] = "90d",
    max_priority: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=100,
            metavar="N",
            help="Highest priority of its jobs, 0 to 100. Default: 50; for admin no limit.",
            show_default=False,
        ),
    ] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and print it. It is not stored and not shown again.

    Standard output has the token alone:
    GRADQ_TOKEN=$(gradq token create laptop --owner alice)
    """
    from shared import audit, tokens
    from shared.errors import ConfigurationError

    owner_name, until = owner or name, end_of(expires)
    _check_names({"NAME": name, "--owner": owner_name})
    with _database(state, make=True) as database, database.write() as session:
        if tokens.name_in_use(session, name):
            raise ConfigurationError(f"a valid token named {name} exists; revoke it, or choose another name")
        row, text = tokens.create(session, name, owner_name, scope.value, until, max_priority)
        audit.note(session, audit.HOST, "token.create", row.id)
        shown = to_json(row)
    if as_json:
        print_json({**shown, "token": text})
        return
    print(text)
    valid = f"until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "without end"
    print(
        f"{row.id}: {scope.value} for {owner_name}, valid {valid}. It is not shown again: keep it, and set "
        "GRADQ_TOKEN to it.",
        file=sys.stderr,
    )


@app.command("list", cls=Verb)
def list_(state: State = None, as_json: AsJson = False) -> None:
    """List the tokens: owner, scope, highest priority, expiry, last use."""
    from shared import tokens

    with _database(state) as database, database.read() as session:
        found = [to_json(row) for row in tokens.list_all(session)]
    if as_json:
        print_json(as_list(found))
    elif found:
        tokens_table(found, PlainConsole())
    else:
        print("no tokens; `gradq token create NAME` creates one")


@app.command(cls=Verb)
def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="The token's id, tok_…, or its name.")],
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a token: it is refused from now on; its open requests end."""
    from shared import audit, tokens

    with _database(state) as database, database.write() as session:
        rows = tokens.revoke(session, which)
        for row in rows:
            audit.note(session, audit.HOST, "token.revoke", row.id)
        found = [to_json(row) for row in rows]
    if as_json:
        print_json(as_list(found))
        return
    for token in found:
        print(f"{token['id']}  {token['name']} of {token['owner']} is revoked")


def end_of(text: str, now: datetime | None = None) -> datetime | None:
    """The time `90d` from now, or of an ISO 8601 date or time, local if it names no zone; None for `never`.

    Raises BadParameter for a time in the past.
    """
    now, given = now or datetime.now(UTC), text.strip().lower()
    if given == "never":
        return None
    span = AGO.fullmatch(given)
    try:
        in_time = now + timedelta(**{UNITS[span[2]]: float(span[1])}) if span else None
        until = in_time or datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, KeyError):
        detail = f"must be a duration (90d, 12h), a date or never, got {text!r}"
        raise typer.BadParameter(detail, param_hint="--expires") from None
    if until <= now:
        raise typer.BadParameter(f"{text!r} is in the past", param_hint="--expires")
    return until.astimezone(UTC)


def to_json(row: Token) -> dict[str, Any]:
    """The fields of a token. Its text is not among them: the database has only its hash."""
    from shared import tokens

    times = ("created_at", "expires_at", "revoked_at", "last_used_at")
    return {
        "object": "token",
        **{field: getattr(row, field) for field in ("id", "name", "owner", "scope")},
        "max_priority": row.max_priority,
        "state": tokens.state_of(row),
        **{field: _time(getattr(row, field)) for field in times},
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_names(given: dict[str, str]) -> None:
    from shared import tokens

    for where, text in given.items():
        if not re.fullmatch(tokens.NAME, text):
            detail = "must be 1 to 64 letters, digits and . _ @ -, starting with a letter or digit"
            raise typer.BadParameter(f"{detail}; got {text!r}", param_hint=where)


@contextmanager
def _database(state: Path | None, make: bool = False) -> Iterator[Database]:
    """The database of the settings. `make`: create its tables if it has none. Raises ConfigurationError."""
    from sqlalchemy.engine import make_url

    from shared.config import Settings
    from shared.db import migrate
    from shared.db.database import Database
    from shared.errors import ConfigurationError

    settings = Settings.from_env(**({} if state is None else {"state_dir": state}))
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file() and not make:
        raise ConfigurationError(f"there is no service in {settings.state_dir}; set GRADQ_STATE_DIR to its folder")
    settings.make_state_dir()
    database = Database(settings.database)
    try:
        with database.look() as connection:
            at = migrate.revision_of(connection)
        if at is None and make:
            database.migrate()
        elif at != migrate.known()[-1]:
            raise ConfigurationError(
                f"the database has schema {at}, and this command needs a newer one: run `gradq migrate`"
            )
        yield database
    finally:
        database.close()
