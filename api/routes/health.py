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
from shared.errors import DatabaseAway
from shared.version import VERSION
from shared.workers import live_workers

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

    Requires the database. If the broker is unreachable, `broker` is `away`: jobs are still stored, and workers find
    them by polling the database.
    """
    broker = "ok" if services().broker.ping() else "away"
    try:
        with services().database.read() as session:
            workers = len(live_workers(session, services().settings.lease_seconds))
    except (DatabaseAway, SQLAlchemyError) as error:  # SQLAlchemyError: reachable, but without tables yet
        log.warning("not ready", error=str(error))
        away = {"ready": False, "database": "away", "broker": broker, "workers": 0}
        response = problem(503, DatabaseAway.code, DatabaseAway.title, "jobs cannot be stored at the moment", **away)
        response.headers["Retry-After"] = str(RETRY_SECONDS)
        return response
    return jsonify({"ready": True, "database": "ok", "broker": broker, "workers": workers})


@bp.get("/v1/version")
@endpoint(schemas.Version, scope="read")
def version() -> Response:
    """Show the version of gradq"""
    return jsonify({"version": VERSION, "python": platform.python_version(), "api": "v1"})
