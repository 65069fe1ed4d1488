"""Checks of the service at the URL: whether it answers, its port, its workers, and whether the clocks agree."""

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
from shared.db.database import Database
from shared.db.tables import database_now
from shared.errors import GradqError
from shared.version import VERSION
from shared.workers import live_workers

SKEW_SECONDS = 3.0  # a Date header has whole seconds


def api(targets: Targets) -> Finding:
    facts: dict[str, Any] = {"url": targets.url}
    if targets.version is None:
        why = targets.silence["/v1/version"]
        mend = "Start it with `gradq up`, or set GRADQ_URL to where it runs."
        return problem(f"nobody answers at {targets.url}: {why}", mend, **facts)
    if targets.refusal is not None:
        return ok(f"{targets.url} answers, and asks for a token", **facts)
    if not targets.answers:
        detail = f"{targets.url} answers {targets.version.status}, but not as gradq does"
        return problem(detail, "Set GRADQ_URL to the address that `gradq up` prints as `ready`.", **facts)
    theirs = str(targets.version.body["version"])
    facts |= {"version": theirs, "python": targets.version.body.get("python")}
    ready = targets.readiness
    if ready is None or ready.status != 200:
        state = ready.body if ready else {}
        facts |= {"database": state.get("database"), "broker": state.get("broker")}
        detail = f"{targets.url} answers, but cannot take jobs: the database is {state.get('database', 'away')}"
        return problem(detail, "Start the database, then run `gradq migrate` on the service's machine.", **facts)
    facts |= {"database": ready.body["database"], "broker": ready.body["broker"]}
    if ready.body["broker"] != "ok":
        detail = f"{targets.url} takes jobs, but its broker is away: workers hear of them late"
        return warning(detail, "Start the broker on the service's machine.", **facts)
    if theirs != VERSION:
        detail = f"{targets.url} is gradq {theirs}, and this command is {VERSION}"
        return warning(detail, f"Install the same version here: `pip install gradq=={theirs}`.", **facts)
    return ok(f"{targets.url} takes jobs, gradq {theirs}", **facts)


def token(targets: Targets) -> Finding:
    """Whether the service takes the one that is set here, and for whom."""
    make = "Set GRADQ_TOKEN to a token of this service; `gradq token create NAME` on its machine makes one."
    if targets.refusal is not None:
        kind = "no token is set, and" if not targets.token else "the one that is set is not taken:"
        return problem(f"{kind} {targets.url} says: {targets.refusal}", make)
    who = targets.who
    if who is None or who.status != 200:  # nobody to ask, or a service of version 0.1
        return ok("nobody asks for one")
    facts = {name: who.body[name] for name in ("owner", "scopes", "token_id")}
    if who.body["owner"] is None:
        return ok(f"{targets.url} asks for none", **facts)
    return ok(f"good: {who.body['owner']} may {', '.join(who.body['scopes'])}", **facts)


def port(targets: Targets) -> Finding:
    parts = urlsplit(targets.url)
    with suppress(ValueError):
        host, number = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        facts = {"host": host, "port": number}
        if targets.answers or targets.refusal is not None:
            return ok(f"{number} on {host} is gradq's", **facts)
        try:
            socket.create_connection((host, number), timeout=2).close()
        except OSError:
            return ok(f"{number} on {host} is free for `gradq up`", **facts)
        return problem(
            f"{number} on {host} is taken by another program",
            "Choose another one: `gradq up --port 0` takes any that is free.",
            **facts,
        )
    return problem(f"{targets.url} is no address", "Set GRADQ_URL to http://host:port.")


def workers(targets: Targets) -> Finding:
    rows = targets.workers.rows if targets.workers is not None else _workers_of_the_database(targets)
    if rows is None:
        return ok("nobody to ask: neither a service nor a database answers")
    facts = {"workers": [{key: row[key] for key in ("id", "host", "version", "draining", "slots")} for row in rows]}
    start = "Start one with `gradq worker` on the machine that is to train, or all of it with `gradq up`."
    if not rows:
        return warning("none is alive: jobs wait in the queue", start, **facts)
    findings = []
    if all(row["draining"] for row in rows):
        findings.append(warning("all are draining: nobody takes new jobs", start))
    for row in rows:
        if row["version"] != VERSION:
            detail = f"{row['id']} is gradq {row['version']}, and this command is {VERSION}"
            findings.append(warning(detail, f"Install the same version on {row['host']} and start its worker anew."))
    slots, free = sum(row["slots"] for row in rows), sum(row["free_slots"] for row in rows)
    kinds = sorted({kind for row in rows for kind in row["devices"].get("kinds", ())})
    count = "1 worker" if len(rows) == 1 else f"{len(rows)} workers"
    return worst(findings, ok(f"{count}, {free} of {slots} slots free, {', '.join(kinds)}", **facts))


def _workers_of_the_database(targets: Targets) -> list[dict[str, Any]] | None:
    """The live ones by their rows, where the API does not say; None where the database does not either."""
    if not targets.has_database:
        return None
    columns = ("id", "host", "version", "draining", "slots", "free_slots", "devices")
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
    """How far the service's clock and the database's are ahead of this one."""
    ahead = {"the service": _ahead_of_api(targets), "the database": _ahead_of_database(targets)}
    known = {who: seconds for who, seconds in ahead.items() if seconds is not None}
    facts = {f"{who.removeprefix('the ')}_ahead_seconds": round(seconds, 1) for who, seconds in known.items()}
    mend = "Let both follow a time server: `timedatectl set-ntp true`. Ages, --since and leases read these clocks."
    findings = [
        warning(f"{who}'s clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this one", mend)
        for who, seconds in known.items()
        if abs(seconds) > SKEW_SECONDS
    ]
    agreed = " and ".join(known) or "nobody to compare with"
    return worst(findings, ok(f"agrees with {agreed}" if known else agreed, **facts))


def _ahead_of_api(targets: Targets) -> float | None:
    """Asked anew: the answers that the other checks share may be seconds old."""
    answer = targets.ask("/healthz") if targets.answers else None
    said = {name.lower(): value for name, value in answer.headers.items()}.get("date") if answer else None
    if said is None:
        return None
    return (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()


def _ahead_of_database(targets: Targets) -> float | None:
    if targets.settings.database.startswith("sqlite"):
        return None  # it has no clock but this one
    with suppress(GradqError, SQLAlchemyError):
        database = Database(targets.settings.database)
        try:
            with database.read() as session:
                theirs = session.scalar(select(database_now()))
        finally:
            database.close()
        return None if theirs is None else (theirs - datetime.now(UTC)).total_seconds()
    return None
