"""Is it alive, is it ready, which one is it."""

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
    """Alive: this process answers"""
    return jsonify({"status": "ok"})


@bp.get("/readyz")
@endpoint(schemas.Readiness, scope="read", errors=(503,), name="check_readiness")
def readyz() -> Response:
    """Ready: jobs are taken

    That needs the database. A broker that is away is told, but jobs are stored all the same and run when it is back.
    """
    broker = "ok" if services().broker.ping() else "away"
    try:
        with services().database.read() as session:
            workers = len(live_workers(session, services().settings.lease_seconds))
    except (DatabaseAway, SQLAlchemyError) as error:  # the second: it answers, but holds no tables yet
        log.warning("not ready", error=str(error))
        away = {"ready": False, "database": "away", "broker": broker, "workers": 0}
        response = problem(503, DatabaseAway.code, DatabaseAway.title, "jobs cannot be stored now", **away)
        response.headers["Retry-After"] = str(RETRY_SECONDS)
        return response
    return jsonify({"ready": True, "database": "ok", "broker": broker, "workers": workers})


@bp.get("/v1/version")
@endpoint(schemas.Version, scope="read")
def version() -> Response:
    """Which gradq this is"""
    return jsonify({"version": VERSION, "python": platform.python_version(), "api": "v1"})
