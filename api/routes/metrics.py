"""A job's metrics as JSON or CSV, and its loss curve as PNG or SVG."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Annotated

from flask import Blueprint, Response, jsonify, request
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.http.requests import CommaList, Query
from api.jobs.whole_curve import WholeCurve
from api.openapi import schemas
from api.openapi.endpoint import JSON, endpoint
from api.services import services
from api.waiting import transfers
from shared.db.tables import EventRow
from shared.errors import FieldError, InvalidQuery
from shared.jobs import curve_blocks, curves, jobs
from shared.spec.job_spec import JobSpec
from shared.validation_errors import did_you_mean
from shared.version import VERSION

CSV = "text/csv"
PICTURES = {"png": "image/png", "svg": "image/svg+xml"}
STREAMED_POINTS = 5000  # of a CSV with more
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
        description="downsample each curve to its first and last point and the minima and maxima of equal stretches; a "
        "curve with no more points is complete (default: 1000 for JSON, all points for CSV)",
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
    limit = query.max_points if as_csv else query.max_points or JSON_POINTS
    with services().database.read() as session:
        log_ends = jobs.get(session, job_id).last_seq  # points are lines of the log: its end identifies them
        etag = hashlib.sha256(f"{job_id} {log_ends} {as_csv} {limit} {query.keys} {VERSION}".encode()).hexdigest()
        known = request.if_none_match.contains_weak(etag)
        found = None if known else _read(session, job_id, query.keys, limit)
    if found is None:
        response = Response(status=304)
    elif as_csv:
        response = _csv(job_id, found)
    else:
        response = jsonify({"object": "metrics", "series": found})
    response.headers["Vary"] = "Accept"
    response.set_etag(etag)
    return response


def _read(session: Session, job_id: str, keys: tuple[str, ...], max_points: int | None) -> curves.Series | WholeCurve:
    """The thinned curves of these metrics, of all without keys; without `max_points` what all points are read from.
    Raises InvalidQuery for a key that is neither known nor one of the job's metrics."""
    if max_points is None:
        whole = WholeCurve.of(session, job_id)
        _check_keys(set(keys) - {*KNOWN, *whole.names}, whole.names)
        return whole.only(keys) if keys else whole
    series = curve_blocks.thinned(session, job_id, max_points, keys)
    if unknown := set(keys) - {*KNOWN, *series}:
        _check_keys(unknown, WholeCurve.of(session, job_id).names)
    return {key: series.get(key, []) for key in keys} if keys else series


def _check_keys(unknown: Collection[str], names: Collection[str]) -> None:
    if unknown:
        wrong = min(unknown)
        detail = f"unknown metric '{wrong}'{did_you_mean(wrong, sorted({*KNOWN, *names}))}"
        raise InvalidQuery([FieldError("/keys", "unknown_metric", detail)])


def _csv(job_id: str, found: curves.Series | WholeCurve) -> Response:
    """As a file. Many points are read while they are sent."""
    if isinstance(found, dict):
        response = Response(curves.to_csv(found), mimetype=CSV)
    elif found.points <= STREAMED_POINTS:
        response = Response("".join(found.csv(services().database)), mimetype=CSV)
    else:
        transfers.will_stream()
        response = Response(found.csv(services().database), mimetype=CSV)
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
        last = session.scalar(select(EventRow.seq).where(*is_metric).order_by(EventRow.seq.desc()).limit(1)) or 0
        version = f"{job_id} {last} {format} {VERSION} {job.name}"
        etag = hashlib.sha1(version.encode(), usedforsecurity=False).hexdigest()
        known = request.if_none_match.contains_weak(etag)
        series = {} if known else curve_blocks.thinned(session, job_id, curves.PICTURE_POINTS)
    response = Response(mimetype=PICTURES[format])
    if known:
        response.status_code = 304
    else:
        empty = NO_POINTS if job.kind == JobSpec.kind else NO_CURVE.format(kind=job.kind.replace("_", " "))
        response.set_data(curves.draw(series, job.name, [format], empty)[0])
    response.set_etag(etag)
    return response
