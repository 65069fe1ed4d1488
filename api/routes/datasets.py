"""Datasets, built-in and uploaded, and the architectures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from flask import Blueprint, Response, jsonify, request
from sqlalchemy.orm import Session

from api.access.auth import owner_filter, principal
from api.changes import audit_log
from api.changes.idempotency import answer_once
from api.http.render import timestamp, whole_list
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.openapi.problems import STORE, UPLOADS
from api.routes.jobs import remove_files
from api.services import services
from api.uploads.fields import UploadFields, digest_of, id_of
from api.uploads.multipart import Upload, content_of, name_of, receive
from api.uploads.staging import staging
from api.waiting import transfers
from shared.artifacts import dataset_folder
from shared.datasets import dataset_store
from shared.datasets.catalog import ARRAYS, DATASETS, FACTS, SAMPLES, DatasetInfo
from shared.db.tables import DatasetRow
from shared.errors import DatabaseAway, Forbidden, GradqError, NotFound, StoreUnavailable
from shared.jobs import limits, stored_bytes
from shared.spec.job_spec import Cnn, Linear, Mlp, Model, Torchvision

EXAMPLES: tuple[Model, ...] = (Linear(), Mlp(), Cnn(), Torchvision(name="resnet18"))

PNG = "image/png"
ANSWER_BYTES = 4 << 20  # the names and counts of a thousand classes

bp = Blueprint("datasets", __name__)
log = structlog.get_logger()


@bp.get("/v1/datasets")
@endpoint(schemas.DatasetList, scope="read", errors=(503,))
def index() -> Response:
    """List the datasets: first built-in ones, with `available` and `missing_files`, then uploaded ones, newest first"""
    folder = services().settings.datasets_dir
    with services().database.read() as session:
        uploaded = [_uploaded(row) for row in dataset_store.list_visible(session, owner_filter())]
    return jsonify(whole_list([*(_built_in(info, folder) for info in DATASETS.values()), *uploaded]))


@bp.post("/v1/datasets")
@endpoint(
    schemas.Dataset,
    scope="submit",
    status=201,
    form=schemas.DatasetUpload,
    body_bytes="max_upload_bytes",
    answer_bytes=ANSWER_BYTES,
    other_answers={200: schemas.Dataset},
    errors=(400, 413, 415, 503),
    problems=UPLOADS,
    headers=("Location",),
    name="upload_dataset",
)
def add() -> Response:
    """Upload a dataset

    Accepts a .npz with `x_train`, `y_train`, `x_test`, `y_test` or with `x` and `y`; an IDX pair; or a zip with one
    folder of PNG or JPEG images per class. The same upload with the same fields is the same dataset: 200 instead of
    201.
    """
    from api.uploads.ingest import PARTS  # imports NumPy and Pillow, which most processes never need

    settings, owner = services().settings, principal().owner or dataset_store.ANONYMOUS
    with staging(settings.uploads_dir, owner, settings.max_owner_uploads) as folder:
        limit, over = _room(owner, settings.max_upload_bytes, settings.owner_bytes)
        upload = receive(folder, PARTS, tuple(UploadFields.model_fields), limit, over)
        return answer_once(lambda: content_of(upload), lambda: _add(upload, folder))


def _room(owner: str, body_limit: int, owner_limit: int | None) -> tuple[int, GradqError | None]:
    """How large the body may be, and the error for a larger one; None for the usual error."""
    if owner_limit is None:
        return body_limit, None
    with services().database.read() as session:
        used = stored_bytes.used_by(session, owner)
    room = max(owner_limit - sum(used.values()), 0)
    return (body_limit, None) if room >= body_limit else (room, stored_bytes.full(owner, used, owner_limit))


def _add(upload: Upload, folder: Path) -> tuple[Response, int, dict[str, str]]:
    from api.uploads.ingest import check_parts, ingest

    check_parts(upload.files)
    fields = UploadFields.parse(upload.fields)
    sha256 = digest_of(upload.digests)
    dataset_id = id_of(sha256, fields)
    name, owner = fields.name or name_of(upload), principal().owner or dataset_store.ANONYMOUS
    with services().database.write() as session:
        limits.lock_storage(session, owner)  # before the dataset's row, as in `_store`
        created = dataset_store.take(session, dataset_id, owner, name)
        if created:
            _check_storage(session, owner, more=0)
        if created is not None:
            audit_log.note(session, dataset_id, 201 if created else 200)
    if created is None:
        transfers.will_use_store()  # before the work of decoding
        decoded = folder / "decoded"
        info, options = ingest(upload.files, fields, name, decoded, services().settings.max_unpacked_bytes)
        created = _store(decoded, dataset_id, info, sha256, {**options, "files": upload.digests}, owner, name)
    with services().database.read() as session:
        body = _uploaded(dataset_store.get(session, dataset_id, owner))
    return jsonify(body), 201 if created else 200, {"Location": body["links"]["self"]}


@bp.get("/v1/datasets/<dataset_id>")
@endpoint(schemas.Dataset, scope="read", errors=(404, 503))
def show(dataset_id: str) -> Response:
    """Show a dataset, a built-in one by name, an uploaded one by id"""
    if (info := DATASETS.get(dataset_id)) is not None:
        return jsonify(_built_in(info, services().settings.datasets_dir))
    with services().database.read() as session:
        return jsonify(_uploaded(dataset_store.get(session, dataset_id, owner_filter())))


@bp.get("/v1/datasets/<dataset_id>/samples.png")
@endpoint(
    None,
    scope="read",
    media=(PNG,),
    errors=(404, 503),
    problems=STORE,
    conditional=True,
    name="show_dataset_samples",
)
def show_samples(dataset_id: str) -> Response:
    """Show images of a dataset: the first eight of each class, one class per row, of the first twenty classes

    The dataset's `links.samples` is null if there are none: of `cifar10`, of built-in datasets whose files are missing,
    and of uploads to versions up to 0.2.0.
    """
    if (info := DATASETS.get(dataset_id)) is None:
        return _stored_samples(dataset_id)
    from api.uploads.built_in_samples import built_in_sheet  # imports NumPy and Pillow

    response = Response(built_in_sheet(info, services().settings.datasets_dir), mimetype=PNG)
    response.add_etag()
    response.make_conditional(request)
    return response


def _stored_samples(dataset_id: str) -> Response:
    """The response with the sample images of an uploaded dataset; the ETag is their SHA-256, which the row has."""
    with services().database.read() as session:
        row = dataset_store.get(session, dataset_id, owner_filter())
    if SAMPLES not in row.files:
        raise NotFound(
            f"{dataset_id} was uploaded to an earlier version, which stored no sample images; upload it again"
        )
    response = Response(mimetype=PNG)
    response.set_etag(row.files[SAMPLES]["sha256"])
    response.make_conditional(request)
    if response.status_code != 200:
        return response
    transfers.will_use_store()
    try:
        with services().store.open(f"{row.folder}/{SAMPLES}") as file:
            response.set_data(file.read())
    except FileNotFoundError as error:
        raise NotFound(f"the sample images of {dataset_id} have been removed from the store") from error
    return response


@bp.delete("/v1/datasets/<dataset_id>")
@endpoint(schemas.DeletedDataset, scope="submit", errors=(403, 404, 409, 503), problems={409: ("dataset_in_use",)})
def delete(dataset_id: str) -> Response:
    """Delete an uploaded dataset; refused while an unfinished job needs it

    Its files are deleted too, unless another owner has uploaded the same dataset: `freed_bytes` is then 0.
    """
    if dataset_id in DATASETS:
        raise Forbidden(f"{dataset_id} is built in; its files, if it has any, are in GRADQ_DATA_DIR")
    with services().database.write() as session:
        row = dataset_store.remove(session, dataset_id, owner_filter())
        audit_log.note(session, dataset_id, 200)
    freed = remove_files([row.folder]) if row is not None else 0
    return jsonify({"object": "dataset", "id": dataset_id, "deleted": True, "freed_bytes": freed})


@bp.get("/v1/architectures")
@endpoint(schemas.ArchitectureList, scope="read")
def architectures() -> Response:
    """List the architectures with their fields and defaults"""
    return jsonify(whole_list([_architecture(example) for example in EXAMPLES]))


# --- into the store ---------------------------------------------------------------------------------------------------


def _store(
    decoded: Path, dataset_id: str, info: DatasetInfo, sha256: str, options: dict[str, Any], owner: str, name: str
) -> bool:
    """Store the files, then the row, so that no row refers to a missing file. False if a concurrent
    upload of the same owner was first."""
    store, database, folder = services().store, services().database, dataset_folder(dataset_id)
    stored = (*ARRAYS, FACTS, SAMPLES)
    with database.read() as session:
        _check_storage(session, owner, sum((decoded / name).stat().st_size for name in stored))
    recorded = False
    try:
        files = [store.put(f"{folder}/{name}", decoded / name) for name in stored]
        with database.write() as session:
            limits.lock_storage(session, owner)
            _check_storage(session, owner, sum(file.size_bytes for file in files))
            recorded = dataset_store.add(session, dataset_id, info, sha256, options, folder, files, owner)
            created = recorded or bool(dataset_store.take(session, dataset_id, owner, name))
            audit_log.note(session, dataset_id, 201 if created else 200)
    finally:
        if not recorded and not _is_recorded(dataset_id, folder):
            _remove_unrecorded(folder)
    return created


def _remove_unrecorded(folder: str) -> None:
    """Remove what was stored of a failed upload; what remains is found by the sweep of the store."""
    try:
        services().store.remove_folder(folder)
    except StoreUnavailable as error:
        log.warning("files of a failed upload remain", folder=folder, error=error.detail)


def _check_storage(session: Session, owner: str, more: int) -> None:
    stored_bytes.check(session, owner, services().settings.owner_bytes, more)


def _is_recorded(dataset_id: str, folder: str) -> bool:
    """Whether the row was committed although the write raised. True while the database is unreachable: files are
    kept."""
    try:
        with services().database.read() as session:
            row = dataset_store.find(session, dataset_id)
    except DatabaseAway as error:
        log.warning("files of an upload may remain", dataset_id=dataset_id, folder=folder, error=error.detail)
        return True
    return row is not None and row.folder == folder


# --- the objects ------------------------------------------------------------------------------------------------------


def _built_in(info: DatasetInfo, folder: Path) -> dict[str, Any]:
    missing = info.missing_files(folder)
    nothing = dict.fromkeys(("sha256", "options", "size_bytes", "created_at"))
    here = {
        "available": not missing,
        "missing_files": [path.relative_to(folder).as_posix() for path in missing],  # below GRADQ_DATA_DIR
    }
    info = replace(info, white_reason="as the dataset is published")
    return {**_facts(info.name, info), **nothing, **here, "links": _links(info.name, info.has_samples(folder))}


def _uploaded(row: DatasetRow) -> dict[str, Any]:
    owned = dataset_store.as_owned(row, owner_filter())
    return {
        **_facts(row.id, replace(dataset_store.info_of(row), name=owned.name)),
        "sha256": row.sha256,
        "options": row.options,
        "size_bytes": row.size_bytes,
        "created_at": timestamp(owned.created_at),
        "available": True,
        "missing_files": [],
        "links": _links(row.id, SAMPLES in row.files),
    }


def _links(dataset_id: str, has_samples: bool) -> dict[str, str | None]:
    own = f"/v1/datasets/{dataset_id}"
    return {"self": own, "samples": f"{own}/samples.png" if has_samples else None}


def _facts(dataset_id: str, info: DatasetInfo) -> dict[str, Any]:
    return {
        "object": "dataset",
        "id": dataset_id,
        "name": info.name,
        "source": info.source,
        "description": info.description,
        "shape": info.shape,
        "classes": info.classes,
        "train_examples": info.train_examples,
        "test_examples": info.test_examples,
        "dtype": info.dtype,
        "white": info.white,
        "white_reason": info.white_reason,
        "warnings": list(info.warnings),
        **(info.statistics or dict.fromkeys(("counts", "mean", "std"))),
    }


def _architecture(example: Model) -> dict[str, Any]:
    fields = type(example).model_json_schema()["properties"]
    kind = fields.pop("type")["default"]
    return {
        "object": "architecture",
        "type": kind,
        "description": example.__doc__,
        "gradients": ("autograd",) if isinstance(example, Torchvision) else ("autograd", "manual"),
        "fields": fields,
        "example": example.model_dump(mode="json"),
    }
