"""Checks of the service at the URL: its answer, token, storage, port, workers and clock."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from gradq.commands.checkups.finding import Finding, ok, problem, warning, worst
from gradq.commands.checkups.targets import Targets
from gradq.commands.formatting import size
from shared import heartbeat
from shared.db.database import Database
from shared.db.tables import database_now
from shared.errors import GradqError
from shared.heartbeat import SILENT_SECONDS
from shared.version import VERSION
from shared.workers import live_workers

NEARLY_FULL = 0.9
SKEW_SECONDS = 3.0  # a Date header has whole seconds


def api(targets: Targets) -> Finding:
    facts: dict[str, Any] = {"url": targets.url}
    if targets.wrong_setting is not None:
        return problem(targets.wrong_setting, "Correct this setting, or unset it.", **facts)
    if targets.detour:
        facts["proxy"] = str(targets.target.proxy)
    if targets.version is None and targets.detour:
        why = targets.silence["/v1/version"]
        return problem(f"no answer from {targets.url}: {why}", _around(targets), **facts)
    if targets.version is None:
        why = targets.silence["/v1/version"]
        mend = "Start it with `gradq up`, or set GRADQ_URL to where it runs."
        return problem(f"no answer from {targets.url}: {why}", mend, **facts)
    if targets.refusal is not None:
        return ok(f"{targets.url} answers, and requires a token", **facts)
    if not targets.answers:
        detail = f"{targets.url} answers {targets.version.status}{targets.detour}, but it is not a gradq service"
        if targets.detour:
            return problem(detail, _around(targets), **facts)
        return problem(detail, "Set GRADQ_URL to the address that `gradq up` prints as `ready`.", **facts)
    theirs = str(targets.version.body["version"])
    facts |= {"version": theirs, "python": targets.version.body.get("python")}
    ready = targets.readiness
    if ready is None or ready.status != 200:
        state = ready.body if ready else {}
        facts |= {"database": state.get("database"), "broker": state.get("broker")}
        detail = f"{targets.url} answers, but cannot accept jobs: database: {state.get('database', 'unreachable')}"
        return problem(detail, "Start the database, then run `gradq migrate` on the service's machine.", **facts)
    facts |= {"database": ready.body["database"], "broker": ready.body["broker"]}
    if ready.body["broker"] != "ok":
        why = ready.body.get("broker_detail") or "Redis cannot be reached"
        detail = f"{targets.url} accepts jobs, but workers start them late, since its broker is away: {why}"
        return warning(detail, "Start or correct the broker on the service's machine.", **facts)
    if theirs != VERSION:
        detail = f"{targets.url} is gradq {theirs}, and this command is {VERSION}"
        return warning(detail, f"Install the same version here: `pip install gradq=={theirs}`.", **facts)
    return ok(f"{targets.url} accepts jobs, gradq {theirs}", **facts)


def _around(targets: Targets) -> str:
    return f"Check the proxy, or add {urlsplit(targets.url).hostname} to NO_PROXY to ask it directly."


def token(targets: Targets) -> Finding:
    """Whether the service accepts the token that is set here, and its owner and scopes."""
    make = "Set GRADQ_TOKEN to a token of this service; `gradq token create NAME` on its machine creates one."
    if targets.refusal is not None:
        kind = "no token is set:" if not targets.token else "the token is not accepted:"
        return problem(f"{kind} {targets.url} says: {targets.refusal}", make)
    if targets.wrong_setting is not None:
        return ok("unknown: the service cannot be asked")
    who = targets.who
    if who is None or who.status != 200:  # no service, or one of version 0.1
        return ok("none required")
    facts = {name: who.body[name] for name in ("owner", "scopes", "token_id")}
    if who.body["owner"] is None:
        return ok(f"{targets.url} requires none", **facts)
    return ok(f"valid: owner {who.body['owner']}, scopes {', '.join(who.body['scopes'])}", **facts)


def storage(targets: Targets) -> Finding:
    """How much of what it may store the caller's owner does."""
    used = targets.who.body.get("storage") if targets.who is not None and targets.who.status == 200 else None
    if used is None:  # no service, one of version 0.2, or one that does not accept the token
        return ok("unknown: the service does not say")
    facts, stored = {"storage": used}, size(used["used_bytes"])
    if used["limit_bytes"] is None:
        return ok(f"{stored} stored, without a limit", **facts)
    share = used["used_bytes"] / used["limit_bytes"]
    detail = f"{stored} of {size(used['limit_bytes'])} stored ({100 * share:.0f} %)"
    if share < NEARLY_FULL:
        return ok(detail, **facts)
    mend = (
        "Delete ended jobs with `gradq rm`, datasets with `gradq datasets rm`; or set GRADQ_MAX_OWNER_BYTES on the "
        "service's machine."
    )
    if share < 1:
        return warning(f"{detail}; beyond that limit no job and no dataset is accepted", mend, **facts)
    return problem(f"{detail}; no further job or dataset is accepted", mend, **facts)


def port(targets: Targets) -> Finding:
    if targets.detour and not targets.answers:
        return ok(f"unknown: {targets.url} is asked{targets.detour}")
    with suppress(ValueError):
        parts = urlsplit(targets.url)
        host, number = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        facts = {"host": host, "port": number}
        if targets.wrong_setting is not None:
            return ok("unknown: the service cannot be asked", **facts)
        if targets.answers or targets.refusal is not None:
            return ok(f"{number} on {host} is gradq's", **facts)
        try:
            socket.create_connection((host, number), timeout=2).close()
        except OSError:
            return ok(f"{number} on {host} is free for `gradq up`", **facts)
        return problem(
            f"{number} on {host} is in use by another program",
            "Choose another port: `gradq up --port 0` takes a free one.",
            **facts,
        )
    return problem(f"{targets.url} is not a valid address", "Set GRADQ_URL to http://host:port.")


def workers(targets: Targets) -> Finding:
    found = _registered_workers(targets)
    silent = [beat.age for beat in heartbeat.of_host(targets.settings.state_dir) if beat.age > SILENT_SECONDS]
    if not silent:
        return found
    detail = f"a worker on this machine runs, but its maintenance loop has not for {silent[0]:.0f} s"
    return worst([problem(detail, "Restart it; its jobs resume from their last checkpoint.")], found)


def _registered_workers(targets: Targets) -> Finding:
    rows = targets.workers.rows if targets.workers is not None else _workers_of_the_database(targets)
    if rows is None:
        return ok("unknown: neither a service nor a database answers")
    facts = {"workers": [{key: row[key] for key in ("id", "host", "version", "draining", "slots")} for row in rows]}
    start = "Start one with `gradq worker` on a training machine, or everything with `gradq up`."
    if not rows:
        return warning("none is alive: jobs wait in the queue", start, **facts)
    findings = []
    for row in rows:
        if row.get("outage"):
            detail = f"{row['id']} claims no job: {row['outage']}"
            findings.append(warning(detail, "Make room or bring the store back; the worker then continues by itself."))
    if all(row["draining"] for row in rows):
        findings.append(warning("all are draining: none takes new jobs", start))
    for row in rows:
        link = row.get("broker") or row["devices"].get("broker")  # in the API's answer, or in the row
        if link is not None and not link["ok"]:
            detail = f"{row['id']} receives no messages and polls the database: {link['detail']}"
            findings.append(warning(detail, "Correct the broker; the worker connects again by itself."))
        if row["version"] != VERSION:
            detail = f"{row['id']} is gradq {row['version']}, and this command is {VERSION}"
            findings.append(warning(detail, f"Install the same version on {row['host']} and restart its worker."))
    slots, free = sum(row["slots"] for row in rows), sum(row["free_slots"] for row in rows)
    kinds = sorted({kind for row in rows for kind in row["devices"].get("kinds", ())})
    count = "1 worker" if len(rows) == 1 else f"{len(rows)} workers"
    return worst(findings, ok(f"{count}, {free} of {slots} slots free, {', '.join(kinds)}", **facts))


def _workers_of_the_database(targets: Targets) -> list[dict[str, Any]] | None:
    """The live workers by their rows, for when the API does not answer; None if the database does not either."""
    if not targets.has_database:
        return None
    columns = ("id", "host", "version", "draining", "outage", "slots", "free_slots", "devices")
    with suppress(GradqError, SQLAlchemyError, OSError):
        database = Database(targets.settings.database)
        try:
            with database.read() as session:
                live = live_workers(session, targets.settings.lease_seconds)
                return [{name: getattr(row, name) for name in columns} for row in live]
        finally:
            database.close()
    return None


def clock(targets: Targets) -> Finding:
    """Compares the clocks of the service and of the database with this machine's."""
    ahead = {"the service": _ahead_of_api(targets), "the database": _ahead_of_database(targets)}
    known = {who: seconds for who, seconds in ahead.items() if seconds is not None}
    facts = {f"{who.removeprefix('the ')}_ahead_seconds": round(seconds, 1) for who, seconds in known.items()}
    mend = "Synchronize both with a time server: `timedatectl set-ntp true`. Ages, --since and leases use these clocks."
    findings = [
        warning(f"{who}'s clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this one", mend)
        for who, seconds in known.items()
        if abs(seconds) > SKEW_SECONDS
    ]
    agreed = " and ".join(known) or "nothing to compare with"
    return worst(findings, ok(f"agrees with {agreed}" if known else agreed, **facts))


def _ahead_of_api(targets: Targets) -> float | None:
    """Seconds. Sends a new request, since the answers that the other checks share may be seconds old."""
    answer = targets.ask("/healthz") if targets.answers else None
    said = {name.lower(): value for name, value in answer.headers.items()}.get("date") if answer else None
    if said is None:
        return None
    return (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()


def _ahead_of_database(targets: Targets) -> float | None:
    if targets.settings.database.startswith("sqlite"):
        return None  # it uses this machine's clock
    with suppress(GradqError, SQLAlchemyError):
        database = Database(targets.settings.database)
        try:
            with database.read() as session:
                theirs = session.scalar(select(database_now()))
        finally:
            database.close()
        return None if theirs is None else (theirs - datetime.now(UTC)).total_seconds()
    return None
