"""A job's metrics as JSON or CSV, and its loss curve as PNG or SVG."""

from __future__ import annotations

import hashlib
from typing import Annotated

from flask import Blueprint, Response, jsonify, request
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.http.requests import CommaList, Query
from api.openapi import schemas
from api.openapi.endpoint import JSON, endpoint
from api.services import services
from shared.db.tables import EventRow
from shared.errors import FieldError, InvalidQuery
from shared.jobs import curves, joblog, jobs
from shared.spec.job_spec import JobSpec
from shared.validation_errors import did_you_mean
from shared.version import VERSION

CSV = "text/csv"
PICTURES = {"png": "image/png", "svg": "image/svg+xml"}
JSON_POINTS = 1000  # default of max_points for JSON; CSV has all points by default
NO_POINTS, NO_CURVE = "no points yet", "a {kind} has no loss curve"
KNOWN = (
    "train_loss",
    "val_loss",
    "val_accuracy",
    "lr",
    "examples_per_second",
    "batch_loss",
    "test_loss",
    "test_accuracy",
)
Key = Annotated[str, Field(json_schema_extra={"enum": [*KNOWN]})]  # the view refuses others, and suggests a close one

bp = Blueprint("metrics", __name__)


class MetricFilter(Query):
    keys: Annotated[tuple[Key, ...], CommaList] = Field((), description="only these metrics")
    max_points: Annotated[int, Field(ge=2, le=1_000_000)] | None = Field(
        None,
        description="downsample each curve, keeping minima and maxima (default: 1000 for JSON, all points for CSV)",
    )


@bp.get("/v1/jobs/<job_id>/metrics")
@endpoint(
    schemas.Metrics,
    scope="read",
    query=MetricFilter,
    media=(JSON, CSV),
    errors=(404, 503),
    conditional=True,
    headers=("Vary",),
    sometimes=("Content-Disposition",),
)
def show(job_id: str, query: MetricFilter) -> Response:
    """Read a job's metrics, as JSON or, with `Accept: text/csv`, as CSV"""
    as_csv = request.accept_mimetypes.best_match([JSON, CSV]) == CSV
    limit = query.max_points or (None if as_csv else JSON_POINTS)
    with services().database.read() as session:
        log_ends = jobs.get(session, job_id).last_seq  # points are lines of the log: its end identifies them
        etag = hashlib.sha256(f"{job_id} {log_ends} {as_csv} {limit} {query.keys} {VERSION}".encode()).hexdigest()
        known = request.if_none_match.contains_weak(etag)
        series = {} if known else _series(session, job_id)
    if known:
        response = Response(status=304)
    else:
        response = _written(job_id, _chosen(series, query.keys, limit), as_csv)
    response.headers["Vary"] = "Accept"
    response.set_etag(etag)
    return response


def _chosen(series: curves.Series, keys: tuple[str, ...], limit: int | None) -> curves.Series:
    if keys:
        _check_keys(keys, series)
        series = {key: series.get(key, []) for key in keys}
    return series if limit is None else {name: curves.thin(points, limit) for name, points in series.items()}


def _written(job_id: str, series: curves.Series, as_csv: bool) -> Response:
    if not as_csv:
        return jsonify({"object": "metrics", "series": series})
    response = Response(curves.to_csv(series), mimetype=CSV)
    response.headers.set("Content-Disposition", "attachment", filename=f"{job_id}-metrics.csv")
    return response


@bp.get("/v1/jobs/<job_id>/loss_curve.png")
@endpoint(None, scope="read", media=(PICTURES["png"],), errors=(404, 503), conditional=True)
def png(job_id: str) -> Response:
    """Draw the loss curve so far as a PNG"""
    return _picture(job_id, "png")


@bp.get("/v1/jobs/<job_id>/loss_curve.svg")
@endpoint(None, scope="read", media=(PICTURES["svg"],), errors=(404, 503), conditional=True)
def svg(job_id: str) -> Response:
    """Draw the loss curve so far as an SVG"""
    return _picture(job_id, "svg")


def _picture(job_id: str, format: str) -> Response:
    """The picture. Its ETag is made of the last point and the job's name, its title; nothing is drawn for a 304."""
    with services().database.read() as session:
        job = jobs.get(session, job_id)
        is_metric = (EventRow.job_id == job_id, EventRow.type == "metric")
        last = session.scalar(select(func.max(EventRow.seq)).where(*is_metric)) or 0
        version = f"{job_id} {last} {format} {VERSION} {job.name}"
        etag = hashlib.sha1(version.encode(), usedforsecurity=False).hexdigest()
        known = request.if_none_match.contains_weak(etag)
        series = {} if known else _series(session, job_id)
    response = Response(mimetype=PICTURES[format])
    if known:
        response.status_code = 304
    else:
        empty = NO_POINTS if job.kind == JobSpec.kind else NO_CURVE.format(kind=job.kind.replace("_", " "))
        response.set_data(curves.draw(series, job.name, [format], empty)[0])
    response.set_etag(etag)
    return response


def _series(session: Session, job_id: str) -> curves.Series:
    points = joblog.points_of(session, job_id)
    return curves.to_series((point["step"], point["epoch"], point["metrics"]) for point in points)


def _check_keys(keys: tuple[str, ...], series: curves.Series) -> None:
    known = sorted({*KNOWN, *series})
    if wrong := [key for key in keys if key not in known]:
        detail = f"unknown metric '{wrong[0]}'{did_you_mean(wrong[0], known)}"
        raise InvalidQuery([FieldError("/keys", "unknown_metric", detail)])
