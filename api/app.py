"""The Flask app: `create_app` assembles it. No connection is opened before the first request."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import Forbidden
from werkzeug.routing import BaseConverter

from api.access import auth, auth_throttle, rates
from api.access.auth import EXTENSION as AUTH
from api.access.auth import UNIDENTIFIED, AccessPolicy, authorize, identify
from api.changes import audit_log
from api.changes.idempotency import EXTENSION as KEPT_RESPONSES
from api.changes.kept_responses import KeptResponses
from api.dashboard import assets, pages
from api.http import path_prefix, security_headers
from api.http.render import JSON
from api.jobs.job_answers import EXTENSION as JOB_ANSWERS
from api.jobs.job_answers import JobAnswers
from api.predictions.places import PredictionPlaces
from api.routes import (
    artifacts,
    audit,
    bulk,
    datasets,
    docs,
    events,
    health,
    jobs,
    metrics,
    predictions,
    presets,
    prometheus,
    queues,
    session,
    steering,
    workers,
)
from api.services import EXTENSION, Services
from api.waiting import transfers
from api.waiting.long_polling import EXTENSION as LONG_POLLS
from api.waiting.long_polling import LongPolls
from shared import logs
from shared.config import Settings

MAX_BODY_BYTES = 1 << 16  # unless the route declares another limit, as all do that read a body
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

PARTS = (
    *(jobs, steering, bulk, events, metrics, artifacts, predictions),
    *(workers, queues, datasets, presets, audit, health, prometheus, session, docs),
    *(pages, assets),
)

log = structlog.get_logger()


class JobId(BaseConverter):
    """Matches a job id at the end of a path, except the names of routes next to it: `/v1/jobs/bulk`."""

    regex = r"(?!bulk$)[^/]+"


def create_app(settings: Settings | None = None) -> Flask:
    settings = settings or Settings.from_env()
    if not structlog.is_configured():  # else the process that embeds the app has configured the log
        logs.configure(settings.log_level, settings.secrets)
    app = Flask("api", static_folder=None)  # api/dashboard/assets.py serves files
    app.json = JSON(app)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY_BYTES)
    services = app.extensions[EXTENSION] = Services.from_settings(settings)
    app.extensions[AUTH] = AccessPolicy(settings)
    app.extensions[LONG_POLLS] = LongPolls(settings, services.database)
    app.extensions[KEPT_RESPONSES] = KeptResponses(settings.owner_bytes)
    app.extensions[JOB_ANSWERS] = JobAnswers()
    app.extensions[predictions.EXTENSION] = PredictionPlaces(settings)
    app.register_error_handler(Exception, pages.unrouted)
    app.url_map.converters["job"] = JobId
    for part in PARTS:
        app.register_blueprint(part.bp)
    path_prefix.register(app, settings.path_prefix)
    auth.complete(app)
    app.before_request(_begin)
    app.before_request(identify)
    auth_throttle.register(app)
    audit_log.register(app)
    rates.register(app, settings)  # before `authorize`, so that refused requests and guessed ids count as well
    app.before_request(authorize)
    app.before_request(_refuse_cross_site)
    app.after_request(_end)
    transfers.register(app, settings)  # last: its hook after a request runs before `_end`, which counts the response
    return app


def _begin() -> None:
    g.began = time.perf_counter()
    g.principal = UNIDENTIFIED
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _refuse_cross_site() -> None:
    """Protection against cross-site request forgery: on a loopback address no token is required, and elsewhere the
    browser sends its cookie with the request."""
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:  # set by browsers; other clients send neither header
        foreign = site not in ("none", "same-origin")
    else:
        foreign = origin is not None and origin.partition("://")[2] != request.host
    if foreign:
        raise Forbidden("cross-site requests must not change anything")


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    security_headers.add_to(response.headers)
    path_prefix.add_to(response.headers)
    prometheus.count(response)
    if response.status_code == 403:
        audit_log.note_refusal()
    log.info(
        "request",
        method=request.method,
        path=logs.cut(request.path, logs.LONGEST_PATH),
        status=response.status_code,
        owner=g.principal.owner,
        token_id=g.principal.token_id,
        milliseconds=round((time.perf_counter() - g.began) * 1000, 2),
        request_id=g.request_id,
    )
    return response
