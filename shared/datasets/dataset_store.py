"""The rows of uploaded datasets. A dataset cannot be deleted while a job that has not ended needs it.

Uploads are deduplicated and reference-counted by owner: each owner has their own name for the dataset and does not see
the others; the files are deleted with the last reference. `visible_to` is the owner whose datasets are visible; None
means all owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared import file_removals
from shared.artifacts import StoredFile
from shared.datasets.catalog import DATASETS, DatasetInfo, FindDataset
from shared.db.database import Database
from shared.db.tables import DatasetRow, Job
from shared.errors import DatasetInUse, FieldError, InvalidSpec, NotFound
from shared.jobs import counters, stored_bytes
from shared.jobs.joblog import now
from shared.jobs.states import UNFINISHED

UPLOADED = "ds_"
ANONYMOUS = ""  # owner of datasets that were uploaded without a token


@dataclass(frozen=True)
class OwnedDataset:
    """A dataset under one owner's name, with the time of their upload."""

    row: DatasetRow
    name: str
    created_at: datetime


def as_owned(row: DatasetRow, visible_to: str | None) -> OwnedDataset:
    """The dataset as this owner sees it; for None, under the name of its first upload."""
    mine = row.owners.get(visible_to, {}) if visible_to is not None else {}
    at = mine.get("created_at")
    return OwnedDataset(row, mine.get("name", row.name), datetime.fromisoformat(at) if at else row.created_at)


def add(
    session: Session,
    dataset_id: str,
    info: DatasetInfo,
    sha256: str,
    options: dict[str, Any],
    folder: str,
    files: Sequence[StoredFile],
    owner: str = ANONYMOUS,
) -> bool:
    """Insert a dataset whose files are stored. Returns False if a concurrent upload has inserted the same one."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    size_bytes = sum(file.size_bytes for file in files)
    values = {
        "id": dataset_id,
        "owners": {owner: _reference(info.name)},
        "name": info.name,
        "sha256": sha256,
        "facts": info.to_json(),
        "options": options,
        "folder": folder,
        "files": {file.name: {"size_bytes": file.size_bytes, "sha256": file.sha256} for file in files},
        "size_bytes": size_bytes,
        "created_at": now(),
    }
    statement = dialect.insert(DatasetRow).values(**values).on_conflict_do_nothing(index_elements=["id"])
    recorded = session.execute(statement.returning(DatasetRow.id)).first() is not None
    if recorded:
        counters.stored(session, "datasets", size_bytes)
        stored_bytes.add(session, owner, "datasets", size_bytes)
    return recorded


def take(session: Session, dataset_id: str, owner: str, name: str) -> bool | None:
    """Add an owner's reference to an existing dataset.

    Returns False if the owner already has one, None if the dataset does not exist.
    """
    row = session.scalar(select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update())
    if row is None:
        return None
    if owner in row.owners:
        return False
    row.owners = {**row.owners, owner: _reference(name)}
    stored_bytes.add(session, owner, "datasets", row.size_bytes)  # for each owner, whose references are independent
    return True


def _reference(name: str) -> dict[str, Any]:
    return {"name": name, "created_at": now().isoformat()}


def find(session: Session, dataset_id: str, visible_to: str | None = None) -> DatasetRow | None:
    row = session.get(DatasetRow, dataset_id)
    return row if row is not None and (visible_to is None or visible_to in row.owners) else None


def get(session: Session, dataset_id: str, visible_to: str | None) -> DatasetRow:
    """The dataset's row. Raises NotFound if it does not exist or is not visible."""
    row = find(session, dataset_id, visible_to) if _is_plain(dataset_id) else None
    if row is None:
        raise NotFound(f"dataset {dataset_id[:80]} not found; GET /v1/datasets lists them")
    return row


def _is_plain(dataset_id: str) -> bool:
    """Whether it can be an id. PostgreSQL rejects a NUL, and all drivers reject a lone surrogate."""
    return dataset_id.isascii() and dataset_id.isprintable()


def list_visible(session: Session, visible_to: str | None = None) -> Sequence[DatasetRow]:
    """The visible uploaded datasets, newest first."""
    rows = session.scalars(select(DatasetRow).order_by(DatasetRow.created_at.desc(), DatasetRow.id)).all()
    return [row for row in rows if visible_to is None or visible_to in row.owners]


def known_among(session: Session, dataset_ids: Sequence[str]) -> set[str]:
    """Those of the ids that exist."""
    return set(session.scalars(select(DatasetRow.id).where(DatasetRow.id.in_(dataset_ids))))


def remove(session: Session, dataset_id: str, visible_to: str | None = None) -> DatasetRow | None:
    """Remove the owner's reference, or all of them if `visible_to` is None.

    With the last reference the row is deleted and returned, and its files are listed for removal.
    Raises NotFound, and DatasetInUse while a job that has not ended needs the dataset.
    """
    row = session.scalar(select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update())
    if row is None or not (visible_to is None or visible_to in row.owners):
        raise NotFound(f"dataset {dataset_id[:80]} not found; GET /v1/datasets lists them")
    left = {owner: entry for owner, entry in row.owners.items() if visible_to is not None and owner != visible_to}
    _refuse_in_use(session, dataset_id, visible_to, last=not left)
    for owner in row.owners.keys() - left.keys():
        stored_bytes.add(session, owner, "datasets", -row.size_bytes)
    if left:
        row.owners = left
        return None
    session.delete(row)
    file_removals.add(session, row.folder)
    counters.stored(session, "datasets", -row.size_bytes)
    return row


def _refuse_in_use(session: Session, dataset_id: str, visible_to: str | None, last: bool) -> None:
    """Raise DatasetInUse if a job needs the dataset.

    Jobs of other owners (an admin's, for example) count only if this is the last reference, and are not named.
    """
    wanted = select(Job.id, Job.owner).where(Job.state.in_(UNFINISHED), Job.spec["dataset"].as_string() == dataset_id)
    users = session.execute(wanted.order_by(Job.id)).all()
    named = [job_id for job_id, owner in users if visible_to is None or owner == visible_to]
    others = len(users) - len(named) if last else 0
    if not named and not others:
        return
    more = len(named) - 3 + others if len(named) > 3 else others
    some = ", ".join(named[:3]) or "jobs of others"
    also = f" and {more} more" if more and named else ""
    raise DatasetInUse(f"needed by {some}{also}; cancel the jobs or wait for their end", jobs=named[:100])


# --- for submitting jobs ----------------------------------------------------------------------------------------------


def finder(database: Database, visible_to: str | None) -> FindDataset:
    """The function that `JobSpec.parse` uses to look up a dataset, under the name that its owner gave it.

    Built-in ones are found without a query.
    """

    def look_up(name: str) -> DatasetInfo | None:
        if not name.startswith(UPLOADED):
            return DATASETS.get(name)
        if not _is_plain(name):
            return None
        with database.read() as session:
            row = find(session, name, visible_to)
        return None if row is None else replace(info_of(row), name=as_owned(row, visible_to).name)

    return look_up


def lock_for_job(session: Session, name: str, visible_to: str | None) -> None:
    """Keep an uploaded dataset from being deleted until the transaction that inserts its job ends.

    Raises InvalidSpec if it has been deleted. Does nothing for built-in datasets.
    """
    if not name.startswith(UPLOADED):
        return
    owners = session.scalar(select(DatasetRow.owners).where(DatasetRow.id == name).with_for_update(read=True))
    if owners is None or not (visible_to is None or visible_to in owners):
        raise InvalidSpec([FieldError("/dataset", "not_found", f"the dataset '{name}' has been deleted")])


def info_of(row: DatasetRow) -> DatasetInfo:
    return DatasetInfo.from_json(row.facts)
