"""The store of uploaded data sets: rows come and go whole, and none goes while a job needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared import tallies
from shared.artifacts import StoredFile
from shared.database import Database
from shared.datasets import DATASETS, DatasetInfo
from shared.errors import DatasetInUse, FieldError, InvalidSpec, NotFound
from shared.joblog import now
from shared.spec import FindDataset
from shared.states import TERMINAL
from shared.tables import DatasetRow, Job

UPLOADED = "ds_"


def add(
    session: Session,
    dataset_id: str,
    info: DatasetInfo,
    sha256: str,
    options: dict[str, Any],
    folder: str,
    files: Sequence[StoredFile],
) -> bool:
    """Record a data set whose files are stored. False: somebody else recorded the same one meanwhile."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    values = {
        "id": dataset_id,
        "name": info.name,
        "sha256": sha256,
        "facts": info.to_json(),
        "options": options,
        "folder": folder,
        "files": {file.name: {"size_bytes": file.size_bytes, "sha256": file.sha256} for file in files},
        "size_bytes": sum(file.size_bytes for file in files),
        "created_at": now(),
    }
    statement = dialect.insert(DatasetRow).values(**values).on_conflict_do_nothing(index_elements=["id"])
    recorded = session.execute(statement.returning(DatasetRow.id)).first() is not None
    if recorded:
        tallies.stored(session, "datasets", sum(file.size_bytes for file in files))
    return recorded


def find(session: Session, dataset_id: str) -> DatasetRow | None:
    return session.get(DatasetRow, dataset_id)


def get(session: Session, dataset_id: str) -> DatasetRow:
    row = find(session, dataset_id)
    if row is None:
        raise NotFound(f"there is no data set {dataset_id[:80]}; GET /v1/datasets lists them")
    return row


def everything(session: Session) -> Sequence[DatasetRow]:
    """All uploaded data sets, newest first."""
    return session.scalars(select(DatasetRow).order_by(DatasetRow.created_at.desc(), DatasetRow.id)).all()


def known_among(session: Session, dataset_ids: Sequence[str]) -> set[str]:
    return set(session.scalars(select(DatasetRow.id).where(DatasetRow.id.in_(dataset_ids))))


def remove(session: Session, dataset_id: str) -> DatasetRow:
    """Delete the row and return it; the caller must now remove its files. Refused while a job needs them."""
    row = session.scalar(select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update())
    if row is None:
        raise NotFound(f"there is no data set {dataset_id[:80]}")
    wanted = select(Job.id).where(Job.state.not_in(TERMINAL), Job.spec["dataset"].as_string() == dataset_id)
    if users := session.scalars(wanted.order_by(Job.id)).all():
        some = ", ".join(users[:3]) + ("" if len(users) <= 3 else f" and {len(users) - 3} more")
        raise DatasetInUse(f"needed by {some}; cancel the jobs or wait for their end", jobs=list(users[:100]))
    session.delete(row)
    tallies.stored(session, "datasets", -row.size_bytes)
    return row


# --- for those who submit ---------------------------------------------------------------------------------------------


def finder(database: Database) -> FindDataset:
    """What `JobSpec.parse` asks for a data set: the built-in ones cost no look into the database."""

    def look_up(name: str) -> DatasetInfo | None:
        if not name.startswith(UPLOADED):
            return DATASETS.get(name)
        if "\x00" in name:  # PostgreSQL would choke on it
            return None
        with database.read() as session:
            row = find(session, name)
        return None if row is None else info_of(row)

    return look_up


def hold(session: Session, name: str) -> None:
    """Keep the data set from being deleted until this transaction has made its job."""
    if not name.startswith(UPLOADED):
        return
    query = select(DatasetRow.id).where(DatasetRow.id == name).with_for_update(read=True)
    if session.scalar(query) is None:
        raise InvalidSpec([FieldError("/dataset", "not_found", f"the data set '{name}' has been deleted")])


def info_of(row: DatasetRow) -> DatasetInfo:
    return DatasetInfo.from_json(row.facts)
