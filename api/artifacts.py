"""The files of a finished job: the list, and the bytes, whole or in ranges."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import wrap_file

from api import schemas
from api.openapi import endpoint
from api.render import timestamp, whole_list
from api.services import services
from shared import jobs
from shared.artifacts import media_types
from shared.errors import NotFound
from shared.tables import ArtifactRow

bp = APIBlueprint("artifacts", __name__, tag="Artifacts")


@bp.get("/v1/jobs/<job_id>/artifacts")
@endpoint(schemas.ArtifactList, errors=(404, 503))
def index(job_id: str) -> Response:
    """List a job's files"""
    with services().database.read() as session:
        jobs.get(session, job_id)
        rows = jobs.artifacts_of(session, job_id)
    return jsonify(whole_list([_artifact(row) for row in rows]))


@bp.get("/v1/jobs/<job_id>/artifacts/<name>")
@endpoint(
    None,
    media=media_types(),
    errors=(404, 416, 503),
    conditional=True,
    ranges=True,
    headers=("Accept-Ranges", "Content-Disposition"),
    name="download_artifact",
)
def download(job_id: str, name: str) -> Response:
    """Fetch a file; the ETag is its SHA-256, ranges are served"""
    with services().database.read() as session:
        jobs.get(session, job_id)
        row = jobs.artifact(session, job_id, name)
    try:
        file = services().store.open(row.key)
    except FileNotFoundError as error:
        raise NotFound(f"the file {name} of job {job_id} has been removed") from error
    response = Response(wrap_file(request.environ, file), mimetype=row.media_type, direct_passthrough=True)
    response.call_on_close(file.close)
    response.content_length = row.size_bytes
    response.last_modified = row.created_at
    response.set_etag(row.sha256)
    response.headers.set("Content-Disposition", "attachment", filename=row.name)
    try:
        response.make_conditional(request, accept_ranges=True, complete_length=row.size_bytes)
    except HTTPException:  # 416
        file.close()
        raise
    return response


def _artifact(row: ArtifactRow) -> dict[str, Any]:
    return {
        "object": "artifact",
        "name": row.name,
        "kind": row.kind,
        "media_type": row.media_type,
        "size_bytes": row.size_bytes,
        "sha256": row.sha256,
        "created_at": timestamp(row.created_at),
        "links": {"self": f"/v1/jobs/{row.job_id}/artifacts/{row.name}", "job": f"/v1/jobs/{row.job_id}"},
    }
