"""Checks of what keeps things: database, broker, artifact store, data sets. Leaves nothing changed."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from gradq.broker_process import OLDEST, SOCKET_NAME, find_binary
from gradq.checkups.finding import Finding, ok, problem, warning, worst
from gradq.checkups.patient import Patient
from gradq.folders import place_for_sockets
from gradq.words import size
from shared.artifacts import ArtifactStore
from shared.broker import redis_url
from shared.config import Settings
from shared.database import Database, filesystem_of
from shared.datasets import DATASETS
from shared.errors import ConfigurationError, DatabaseAway
from shared.revisions import alembic_config

LITTLE_BYTES, TOO_LITTLE_BYTES = 2 << 30, 200 << 20
REDIS_SECONDS = 2.0


# --- the database -----------------------------------------------------------------------------------------------------


def database(patient: Patient) -> Finding:
    settings, url = patient.settings, make_url(patient.settings.database)
    facts: dict[str, Any] = {"url": url.render_as_string(hide_password=True)}
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        facts |= {"filesystem": filesystem_of(path.parent)}
        if not path.exists() and not patient.holder:
            return ok(f"none yet; `gradq up` makes {path}", **facts)
    try:
        found = Database(settings.database)
    except (ConfigurationError, OSError) as error:
        return problem(str(error), "Set GRADQ_STATE_DIR or GRADQ_DATABASE_URL.", **facts)
    try:
        return _examined(found, facts)
    except DatabaseAway as error:
        if found.is_sqlite:
            mend = f"See who owns {url.database} and its folder, and whether the disk is full: `ls -l`, `df -h`."
        else:
            mend = f"Start PostgreSQL at {url.host}:{url.port or 5432}, or correct GRADQ_DATABASE_URL."
        return problem(f"{facts['url']} does not answer: {error.detail}", mend, **facts)
    except DBAPIError as error:
        return _damaged(str(error.orig), facts)
    finally:
        found.close()


def _examined(database: Database, facts: dict[str, Any]) -> Finding:
    with database.write() as session:  # whether a transaction can be written; this one is empty
        connection = session.connection()
        current, newest, known = revisions(connection)
        broken = _broken_pages(connection) if database.is_sqlite else None
    facts |= {"revision": current, "newest_revision": newest, "quick_check": broken or "ok"}
    if broken:
        return _damaged(broken, facts)
    if current is None:
        return problem(f"{facts['url']} holds no tables of gradq", "Run `gradq migrate`.", **facts)
    if current not in known:
        detail = f"{facts['url']} has schema {current}, which this gradq does not know"
        return problem(detail, "A newer gradq wrote it: upgrade this one.", **facts)
    if current != newest:
        detail = f"{facts['url']} has schema {current}, and this gradq needs {newest}"
        return problem(detail, "Stop the service and run `gradq migrate`.", **facts)
    where = f" on {facts['filesystem']}" if facts.get("filesystem") else ""
    return ok(f"{facts['url']}{where}, schema {current}", **facts)


def _damaged(how: str, facts: dict[str, Any]) -> Finding:
    mend = "Stop gradq, and put a backup of the database back: see docs/operations.md."
    return problem(f"{facts['url']} is damaged: {how}", mend, **facts)


def revisions(connection: Connection) -> tuple[str | None, str | None, set[str]]:
    """The schema's revision, the newest one, and all that this gradq knows."""
    scripts = ScriptDirectory.from_config(alembic_config())
    current = MigrationContext.configure(connection).get_current_revision()
    return current, scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}


def _broken_pages(connection: Connection) -> str | None:
    said = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
    return None if said == "ok" else said


# --- the broker -------------------------------------------------------------------------------------------------------


def broker(patient: Patient) -> Finding:
    settings = patient.settings
    if settings.redis_url is None and not patient.holder:
        try:
            return ok(f"none is named; `gradq up` starts its own ({find_binary()})")
        except ConfigurationError as error:
            return problem(error.detail, "Install redis, or set GRADQ_REDIS_URL.")
    url = broker_url(settings)
    facts: dict[str, Any] = {"url": without_password(url)}
    try:
        with Redis.from_url(
            redis_url(url), socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS
        ) as client:
            info: dict[str, Any] = client.info("server")
            policy = _eviction_policy(client)
    except (RedisError, OSError, ValueError) as error:
        named = "Start Redis there, or correct GRADQ_REDIS_URL."
        own = f"`gradq up` starts it again by itself; {settings.state_dir / 'logs' / 'broker.log'} says why it died."
        mend = named if settings.redis_url is not None else own
        return problem(f"{facts['url']} does not answer: {error}", f"{mend} Jobs are stored meanwhile.", **facts)
    server = str(info.get("valkey_version") or info["redis_version"])
    facts |= {"version": server, "maxmemory_policy": policy}
    if _numbers(str(info["redis_version"])) < OLDEST:
        return problem(f"{facts['url']} is version {server}", "gradq needs 6.2 or newer: upgrade it.", **facts)
    if policy not in (None, "noeviction"):
        detail = f"{facts['url']} may throw keys away (maxmemory-policy {policy})"
        return warning(detail, "Run `redis-cli CONFIG SET maxmemory-policy noeviction`.", **facts)
    return ok(f"{facts['url']}, version {server}", **facts)


def broker_url(settings: Settings) -> str:
    """The Redis that is named, else where `gradq up` puts its own."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return f"redis+socket://{place_for_sockets(settings.broker_socket.parent, len(SOCKET_NAME)) / SOCKET_NAME}"


def without_password(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url


def _eviction_policy(client: Redis) -> str | None:
    try:
        return str(client.config_get("maxmemory-policy")["maxmemory-policy"])
    except (ResponseError, KeyError):  # a hosted Redis does not say
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


# --- files ------------------------------------------------------------------------------------------------------------


def artifacts(patient: Patient) -> Finding:
    url = patient.settings.artifacts
    facts: dict[str, Any] = {"url": url}
    try:
        store = ArtifactStore(url)
    except ImportError as error:
        return problem(f"{url}: {error}", "Run `pip install gradq[s3]`.", **facts)
    except ValueError as error:
        return problem(f"{url}: {error}", "Set GRADQ_ARTIFACTS_URL to file:///folder or s3://bucket/prefix.", **facts)
    folder = store.local_path("")
    if folder is not None and not folder.exists() and not patient.holder:
        return ok(f"none yet; the first job makes {folder}", **facts)
    try:
        _write_and_remove(store)
    except Exception as error:  # each kind of store has errors of its own
        mend = "Let this user write there, or set GRADQ_ARTIFACTS_URL to another place."
        return problem(f"{url} cannot be written: {type(error).__name__}: {error}", mend, **facts)
    if folder is None:
        return ok(f"{url}, writable", **facts)
    free = shutil.disk_usage(folder).free
    facts |= {"free_bytes": free}
    detail = f"{folder}, writable, {size(free)} free"
    mend = "Delete jobs that nobody needs (`gradq rm`), or set GRADQ_ARTIFACTS_URL to a larger disk."
    if free < TOO_LITTLE_BYTES:
        return problem(detail, mend, **facts)
    return warning(detail, mend, **facts) if free < LITTLE_BYTES else ok(detail, **facts)


def _write_and_remove(store: ArtifactStore) -> None:
    key = f"doctor-{secrets.token_hex(6)}"
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe"
        probe.write_bytes(b"gradq doctor")
        store.put(f"{key}/probe", probe)
    store.remove_folder(key)


def data_sets(patient: Patient) -> Finding:
    """Built-in sets here and at a service elsewhere: which are whole, and which files the others lack, and where."""
    folder = patient.settings.datasets_dir
    here = {
        name: [path.relative_to(folder).as_posix() for path in info.missing_files(folder)]
        for name, info in DATASETS.items()
    }
    facts: dict[str, Any] = {"folder": str(folder), "missing": {name: files for name, files in here.items() if files}}
    findings = _incomplete(here, str(folder), patient.settings.download)
    whole = f"whole here: {', '.join(name for name, files in here.items() if not files)}"
    if patient.datasets is not None and not patient.holder:
        there = {row["id"]: row["missing_files"] for row in patient.datasets.rows}
        facts |= {"missing_at_the_service": {name: files for name, files in there.items() if files}}
        findings = _incomplete(there, f"the data folder of {patient.url}", download=True)
        whole = f"whole at {patient.url}: {', '.join(name for name, files in there.items() if not files)}"
    return worst(findings, ok(whole, **facts))


def _incomplete(missing: dict[str, list[str]], folder: str, download: bool) -> list[Finding]:
    """A set that lacks some of its files is never right; one that is not there at all may be fetched."""
    put = "Put the files there, plain or gzipped" + (
        ", or remove the set's folder and let it be fetched." if download else ", or set GRADQ_DOWNLOAD=true."
    )
    partly = {name: files for name, files in missing.items() if 0 < len(files) < len(DATASETS[name].files)}
    absent = [name for name, files in missing.items() if files and name not in partly]
    findings = [warning(f"{name} lacks {', '.join(files)} in {folder}", put) for name, files in partly.items()]
    if absent and download:
        findings.append(ok(f"fetched when a job asks: {', '.join(absent)}"))
    elif absent:
        findings.append(warning(f"not in {folder}: {', '.join(absent)}", put))
    return findings
