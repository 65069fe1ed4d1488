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
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the database to start.")
    ] = 0.0,
    to: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Migrate to this one, up or down. Default: the newest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Migrate the database to the newest schema; safe to run again.

    --to an older revision drops what newer revisions added, with its data.
    Stop the service and make a backup first.
    """
    from shared.config import Settings
    from shared.db.database import Database
    from shared.db.migrate import NEWEST, known
    from shared.errors import DatabaseAway
    from shared.log_stream import hold_streams

    if not as_json:
        hold_streams()  # containers wait for this verb's exit code, which is about the schema alone
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
    """Raises ConfigurationError while a worker is alive: a migration down drops tables that it uses."""
    from sqlalchemy import inspect

    from shared.errors import ConfigurationError
    from shared.workers import any_worker_alive

    with database.read() as session:
        there = inspect(session.connection()).has_table("workers")
        if there and any_worker_alive(session, settings.lease_seconds):
            raise ConfigurationError("a worker uses this database; stop the service first, then migrate --to")
