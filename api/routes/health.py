"""Liveness, readiness, version."""

from __future__ import annotations

import platform

import structlog
from flask import Blueprint, Response, jsonify
from sqlalchemy.exc import SQLAlchemyError

from api.http.errors import RETRY_SECONDS, problem
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.services import services
from shared.errors import DatabaseAway, SchemaMismatch
from shared.version import VERSION
from shared.workers import broker_of, live_workers

bp = Blueprint("health", __name__)
log = structlog.get_logger()


@bp.get("/healthz")
@endpoint(schemas.Health, scope=None, name="check_health")
def healthz() -> Response:
    """Check liveness: this process responds"""
    return jsonify({"status": "ok"})


@bp.get("/readyz")
@endpoint(schemas.Readiness, scope="read", errors=(503,), name="check_readiness")
def readyz() -> Response:
    """Check readiness: jobs are accepted

    Requires the database, with the schema of this version: else `database` is `away`, and `database_detail` names the
    schema's revision. If the broker is unreachable or returns errors, `broker` is `away`: jobs are still stored,
    and workers find them by polling the database.
    """
    fault = services().broker.fault()
    broker = {"broker": "away" if fault else "ok", "broker_detail": fault}
    try:
        services().schema.check()
        with services().database.read() as session:
            workers = live_workers(session, services().settings.lease_seconds)
    except (DatabaseAway, SQLAlchemyError) as error:  # SQLAlchemyError: reachable, but not with these tables
        log.warning("not ready", error=str(error))
        found = error.detail if isinstance(error, SchemaMismatch) else None
        away = {"ready": False, "database": "away", "database_detail": found, **broker}
        counts = {"workers": 0, "workers_without_broker": 0}
        detail = f"jobs cannot be stored at the moment{f': {found}' if found else ''}"
        response = problem(503, DatabaseAway.code, DatabaseAway.title, detail, **away, **counts)
        response.headers["Retry-After"] = str(RETRY_SECONDS)
        return response
    without = sum(not state["ok"] for worker in workers if (state := broker_of(worker)) is not None)
    counts = {"workers": len(workers), "workers_without_broker": without}
    return jsonify({"ready": True, "database": "ok", **broker, **counts})


@bp.get("/v1/version")
@endpoint(schemas.Version, scope="read")
def version() -> Response:
    """Show the version of gradq"""
    return jsonify({"version": VERSION, "python": platform.python_version(), "api": "v1"})
