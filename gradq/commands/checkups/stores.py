"""Checks of the database and the broker. Changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from gradq.commands.checkups.finding import Finding, ok, problem, warning
from gradq.commands.checkups.targets import Targets
from gradq.local.broker_process import OLDEST, SOCKET_NAME, find_binary
from gradq.local.folders import place_for_sockets
from shared.addresses import without_secrets
from shared.broker import redis_url
from shared.config import Settings
from shared.db.database import Database, filesystem_of
from shared.db.migrate import alembic_config
from shared.errors import ConfigurationError, DatabaseAway

REDIS_SECONDS = 2.0


# --- the database -----------------------------------------------------------------------------------------------------


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


# --- the broker -------------------------------------------------------------------------------------------------------


def broker(targets: Targets) -> Finding:
    settings = targets.settings
    if settings.redis_url is None and not targets.holder:
        try:
            return ok(f"none configured; `gradq up` starts its own ({find_binary()})")
        except ConfigurationError as error:
            return problem(error.detail, "Install redis, or set GRADQ_REDIS_URL.")
    url = broker_url(settings)
    facts: dict[str, Any] = {"url": without_secrets(url)}
    try:
        with Redis.from_url(
            redis_url(url), socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS
        ) as client:
            info: dict[str, Any] = client.info("server")
            policy = _eviction_policy(client)
    except (RedisError, OSError, ValueError) as error:
        named = "Start Redis there, or correct GRADQ_REDIS_URL."
        own = f"`gradq up` restarts it by itself; {settings.state_dir / 'logs' / 'broker.log'} has the reason."
        mend = named if settings.redis_url is not None else own
        return problem(f"{facts['url']} does not answer: {error}", f"{mend} Submitted jobs are not lost.", **facts)
    server = str(info.get("valkey_version") or info["redis_version"])
    facts |= {"version": server, "maxmemory_policy": policy}
    if _numbers(str(info["redis_version"])) < OLDEST:
        return problem(f"{facts['url']} is version {server}", "gradq needs 6.2 or newer: upgrade it.", **facts)
    if policy not in (None, "noeviction"):
        detail = f"{facts['url']} may evict keys (maxmemory-policy {policy})"
        return warning(detail, "Run `redis-cli CONFIG SET maxmemory-policy noeviction`.", **facts)
    return ok(f"{facts['url']}, version {server}", **facts)


def broker_url(settings: Settings) -> str:
    """The URL of GRADQ_REDIS_URL, else of the broker that `gradq up` starts."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return f"redis+socket://{place_for_sockets(settings.broker_socket.parent, len(SOCKET_NAME)) / SOCKET_NAME}"


def _eviction_policy(client: Redis) -> str | None:
    try:
        return str(client.config_get("maxmemory-policy")["maxmemory-policy"])
    except (ResponseError, KeyError):  # a hosted Redis does not allow CONFIG
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
