"""The files of a finished job: list, download of one file with ranges, and all files as a zip."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_range_header
from werkzeug.wsgi import wrap_file
from zipstream import ZipStream

from api.http.render import timestamp, whole_list
from api.jobs import files
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.openapi.problems import DRAWS
from api.services import services
from api.waiting import transfers
from shared.artifacts import ArtifactStore, media_types
from shared.db.tables import ArtifactRow
from shared.errors import NoArtifacts, NotFound

ZIP = "application/zip"
CHUNK = 128 << 10  # bytes of a file in a zip, which a thread holds while its client reads
SERVED_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-\d{1,18})\s*")  # more digits are beyond any file

bp = Blueprint("artifacts", __name__)


@bp.get("/v1/jobs/<job_id>/artifacts")
@endpoint(schemas.ArtifactList, scope="read", errors=(404, 503), problems=DRAWS)
def index(job_id: str) -> Response:
    """List a job's files

    Pictures are drawn when they are first asked for, unless a worker has done so: that takes a third of a second.
    """
    return jsonify(whole_list([_artifact(row) for row in files.files_of(job_id)]))


@bp.get("/v1/jobs/<job_id>/artifacts/<name>")
@endpoint(
    None,
    scope="read",
    media=media_types(),
    errors=(404, 416, 503),
    problems=DRAWS,
    conditional=True,
    ranges=True,
    headers=("Accept-Ranges", "Content-Disposition"),
    name="download_artifact",
)
def download(job_id: str, name: str) -> Response:
    """Download a file; the ETag is its SHA-256, and range requests are supported"""
    row = files.file_of(job_id, name)
    response = Response(mimetype=row.media_type, direct_passthrough=True)
    response.accept_ranges = "bytes"
    response.last_modified = row.created_at
    response.set_etag(row.sha256)
    response.headers.set("Content-Disposition", "attachment", filename=row.name)
    response.make_conditional(request)  # without its Range, which comes after (RFC 9110, section 13.2.2)
    if response.status_code != 200:
        return response  # a 304 or a 412 needs the row only
    response.content_length = row.size_bytes
    served = _request()
    transfers.will_use_store(_number_of_bytes(served, row.size_bytes) if request.method == "GET" else 0)
    try:
        file = services().store.open(row.key)
    except FileNotFoundError as error:
        raise NotFound(f"the file {name} of job {job_id} has been removed") from error
    response.response = wrap_file(request.environ, file)
    response.call_on_close(file.close)
    try:
        response.make_conditional(served, accept_ranges=True, complete_length=row.size_bytes)
    except HTTPException:  # 416
        file.close()
        raise
    return response


def _request() -> dict[str, Any]:
    """The WSGI environment without a Range in other units, of several parts, or that ends before it begins: such a
    Range is or may be ignored (RFC 9110, sections 14.1.1 and 14.2), and the whole file is sent, where Werkzeug would
    answer 416."""
    served = SERVED_RANGE.fullmatch(request.headers.get("Range", ""))
    if served and served[2] and int(served[2]) < int(served[1]):
        served = None
    return {name: value for name, value in request.environ.items() if served or name != "HTTP_RANGE"}


def _number_of_bytes(environ: dict[str, Any], size: int) -> int:
    """How many bytes of a file of `size` are sent: of the Range in `environ`, or all."""
    asked = parse_range_header(environ.get("HTTP_RANGE"))
    bounds = asked.range_for_length(size) if asked is not None else None
    return size if bounds is None else bounds[1] - bounds[0]


@bp.get("/v1/jobs/<job_id>/artifacts.zip")
@endpoint(
    None,
    scope="read",
    media=(ZIP,),
    errors=(404, 503),
    problems={404: ("not_found", "no_artifacts"), **DRAWS},
    conditional=True,
    headers=("Content-Disposition",),
)
def download_all(job_id: str) -> Response:
    """Download all files as a zip

    The zip is streamed and not compressed, since most of it is weights, which do not compress. The ETag is derived from
    the files' SHA-256s.
    """
    rows = files.files_of(job_id)
    if not rows:
        raise NoArtifacts(f"job {job_id} has no files yet; they are stored when the job ends")
    response = Response(mimetype=ZIP)
    response.set_etag(_etag(rows), weak=True)  # the zip's bytes also depend on the time at which it is made
    response.headers.set("Content-Disposition", "attachment", filename=f"{job_id}.zip")
    response.make_conditional(request)
    if response.status_code == 200:
        transfers.will_use_store(sum(row.size_bytes for row in rows) if request.method == "GET" else 0)
        archive = _archive(job_id, rows)
        response.content_length = len(archive)
        response.response = archive
    return response


def _archive(job_id: str, rows: Sequence[ArtifactRow]) -> ZipStream:
    # of a store that is away this raises before the first byte is sent
    store = services().store
    if gone := set(store.missing(job_id, (row.key for row in rows))):
        names = (row.name for row in rows if row.key in gone)
        raise NotFound(f"files of job {job_id} have been removed: {', '.join(names)}")
    archive = ZipStream(sized=True)
    for row in rows:
        archive.add(_content(store, row.key), f"{job_id}/{row.name}", size=row.size_bytes)
    return archive


def _content(store: ArtifactStore, key: str) -> Iterator[bytes]:
    """Chunks of a file, which is open only while it is sent."""
    with store.open(key) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _etag(rows: Sequence[ArtifactRow]) -> str:
    lines = "".join(f"{row.name} {row.sha256}\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()


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
