"""Check of the database. Changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from gradq.commands.checkups.finding import Finding, ok, problem
from gradq.commands.checkups.targets import Targets
from shared.addresses import without_secrets
from shared.db.database import Database, filesystem_of
from shared.db.migrate import alembic_config
from shared.errors import ConfigurationError, DatabaseAway


def database(targets: Targets) -> Finding:
    settings, url = targets.settings, make_url(targets.settings.database)
    facts: dict[str, Any] = {"url": without_secrets(settings.database)}
    if url.get_backend_name() == "sqlite":
        facts |= {"filesystem": filesystem_of(Path(url.database or "").parent)}
        if not targets.has_database:
            return _no_file(targets, str(url.database), facts)
    try:
        found = Database(settings.database)
    except (ConfigurationError, OSError) as error:
        return problem(str(error), "Set GRADQ_STATE_DIR or GRADQ_DATABASE_URL.", **facts)
    try:
        return _examined(found, facts)
    except DatabaseAway as error:
        if found.is_sqlite:
            mend = (
                f"Check the owner of {url.database} and its folder (`ls -l`), and whether the disk is full (`df -h`)."
            )
        else:
            mend = f"Start PostgreSQL at {url.host}:{url.port or 5432}, or correct GRADQ_DATABASE_URL."
        return problem(f"{facts['url']} does not answer: {error.detail}", mend, **facts)
    except DBAPIError as error:
        return _damaged(str(error.orig), facts)
    finally:
        found.close()


def _no_file(targets: Targets, path: str, facts: dict[str, Any]) -> Finding:
    if targets.holder:
        mend = "Stop that service, restore a backup (see docs/operations.md) or use a new folder, and start it again."
        return problem(f"{path} is gone, and {targets.holder} uses it", mend, **facts)
    return ok(f"none yet; `gradq up` creates {path}", **facts)


def _examined(database: Database, facts: dict[str, Any]) -> Finding:
    with database.write() as session:  # checks that a write transaction can begin; it stays empty
        connection = session.connection()
        current, newest, known = revisions(connection)
        broken = _broken_pages(connection) if database.is_sqlite else None
    facts |= {"revision": current, "newest_revision": newest, "quick_check": broken or "ok"}
    if broken:
        return _damaged(broken, facts)
    if current is None:
        return problem(f"{facts['url']} has no tables of gradq", "Run `gradq migrate`.", **facts)
    if current not in known:
        detail = f"{facts['url']} has schema {current}, which this version does not know"
        return problem(detail, "A newer gradq created it: upgrade this one.", **facts)
    if current != newest:
        detail = f"{facts['url']} has schema {current}, and this version needs {newest}"
        return problem(detail, "Stop the service and run `gradq migrate`.", **facts)
    where = f" on {facts['filesystem']}" if facts.get("filesystem") else ""
    return ok(f"{facts['url']}{where}, schema {current}", **facts)


def _damaged(how: str, facts: dict[str, Any]) -> Finding:
    mend = "Stop gradq, and restore a backup of the database: see docs/operations.md."
    return problem(f"{facts['url']} is damaged: {how}", mend, **facts)


def revisions(connection: Connection) -> tuple[str | None, str | None, set[str]]:
    """The database's revision, the newest one, and all that this version knows."""
    scripts = ScriptDirectory.from_config(alembic_config())
    current = MigrationContext.configure(connection).get_current_revision()
    return current, scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}


def _broken_pages(connection: Connection) -> str | None:
    said = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
    return None if said == "ok" else said
