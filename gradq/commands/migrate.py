"""The verb `migrate`: change the schema of the database to a revision."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from gradq.commands.options import AsJson, print_json

if TYPE_CHECKING:
    from shared.config import Settings
    from shared.db.database import Database


def migrate(
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for a database that is starting.")
    ] = 0.0,
    to: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Go to this one, up or down. Default: the newest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the newest schema; safe to run again.

    With --to an older revision the way leads down: what newer revisions
    added is taken away, with what is in it. Stop the service and make a
    backup first.
    """
    from shared.config import Settings
    from shared.db.database import Database
    from shared.db.migrate import NEWEST, known
    from shared.errors import DatabaseAway

    settings = Settings.from_env()
    settings.make_state_dir()
    database, deadline = Database(settings.database), time.monotonic() + wait
    while True:
        try:
            if to is not None:
                _refuse_at_work(database, settings)
            revision = database.migrate(to or NEWEST)
        except DatabaseAway:
            if time.monotonic() >= deadline:
                raise
            time.sleep(min(0.5, wait))
        else:
            break
    database.close()
    if as_json:
        print_json({"object": "schema", "revision": revision})
    else:
        newest = "the newest schema" if revision == known()[-1] else "an older schema"
        print(f"the database is at {newest}, {revision}")


def _refuse_at_work(database: Database, settings: Settings) -> None:
    """Nobody may use tables that are being taken away."""
    from sqlalchemy import inspect

    from shared.errors import ConfigurationError
    from shared.workers import any_worker_alive

    with database.read() as session:
        there = inspect(session.connection()).has_table("workers")
        if there and any_worker_alive(session, settings.lease_seconds):
            raise ConfigurationError("a worker is at work on this database; stop the service first, then migrate --to")
