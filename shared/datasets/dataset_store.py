"""The store of uploaded datasets: rows come and go whole, and none goes while a job needs it.

Uploads are deduplicated and reference-counted by owner: each owner has a name of their own for the dataset and sees
nothing of the others; the files are deleted with the last reference. `visible_to` is the owner who asks; None means
all owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared.artifacts import StoredFile
from shared.datasets.catalog import DATASETS, DatasetInfo, FindDataset
from shared.db.database import Database
from shared.db.tables import DatasetRow, Job
from shared.errors import DatasetInUse, FieldError, InvalidSpec, NotFound
from shared.jobs import counters
from shared.jobs.joblog import now
from shared.jobs.states import TERMINAL

UPLOADED = "ds_"
NOBODY = ""  # who uploads where no token is asked for


@dataclass(frozen=True)
class OwnedDataset:
    """A dataset as one who holds it sees it."""

    row: DatasetRow
    name: str
    created_at: datetime


def as_owned(row: DatasetRow, visible_to: str | None) -> OwnedDataset:
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
    owner: str = NOBODY,
) -> bool:
    """Record a dataset whose files are stored. False: somebody else recorded the same one meanwhile."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    values = {
        "id": dataset_id,
        "owners": {owner: _hold(info.name)},
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
        counters.stored(session, "datasets", sum(file.size_bytes for file in files))
    return recorded


def take(session: Session, dataset_id: str, owner: str, name: str) -> bool | None:
    """Let one more hold a dataset that is there. False: he does already; None: there is no such dataset."""
    row = session.scalar(select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update())
    if row is None:
        return None
    if owner in row.owners:
        return False
    row.owners = {**row.owners, owner: _hold(name)}
    return True


def _hold(name: str) -> dict[str, Any]:
    return {"name": name, "created_at": now().isoformat()}


def find(session: Session, dataset_id: str, visible_to: str | None = None) -> DatasetRow | None:
    row = session.get(DatasetRow, dataset_id)
    return row if row is not None and (visible_to is None or visible_to in row.owners) else None


def get(session: Session, dataset_id: str, visible_to: str | None) -> DatasetRow:
    row = find(session, dataset_id, visible_to) if _is_plain(dataset_id) else None
    if row is None:
        raise NotFound(f"there is no dataset {dataset_id[:80]}; GET /v1/datasets lists them")
    return row


def _is_plain(dataset_id: str) -> bool:
    """Whether it can be an id. PostgreSQL would choke on a NUL, and every driver on half a surrogate pair."""
    return dataset_id.isascii() and dataset_id.isprintable()


def everything(session: Session, visible_to: str | None = None) -> Sequence[DatasetRow]:
    """All uploaded datasets, newest first."""
    rows = session.scalars(select(DatasetRow).order_by(DatasetRow.created_at.desc(), DatasetRow.id)).all()
    return [row for row in rows if visible_to is None or visible_to in row.owners]


def known_among(session: Session, dataset_ids: Sequence[str]) -> set[str]:
    return set(session.scalars(select(DatasetRow.id).where(DatasetRow.id.in_(dataset_ids))))


def remove(session: Session, dataset_id: str, visible_to: str | None = None) -> DatasetRow | None:
    """Let go of a dataset: its owner's hold, or everybody's. Refused while a job needs it.

    With the last hold the row goes too, and is returned: the caller must now remove its files.
    """
    row = session.scalar(select(DatasetRow).where(DatasetRow.id == dataset_id).with_for_update())
    if row is None or not (visible_to is None or visible_to in row.owners):
        raise NotFound(f"there is no dataset {dataset_id[:80]}; GET /v1/datasets lists them")
    left = {owner: entry for owner, entry in row.owners.items() if visible_to is not None and owner != visible_to}
    _refuse_in_use(session, dataset_id, visible_to, last=not left)
    if left:
        row.owners = left
        return None
    session.delete(row)
    counters.stored(session, "datasets", -row.size_bytes)
    return row


def _refuse_in_use(session: Session, dataset_id: str, visible_to: str | None, last: bool) -> None:
    """Others' jobs, an admin's say, stand in the way of the last hold alone; they are counted and not named."""
    wanted = select(Job.id, Job.owner).where(Job.state.not_in(TERMINAL), Job.spec["dataset"].as_string() == dataset_id)
    users = session.execute(wanted.order_by(Job.id)).all()
    named = [job_id for job_id, owner in users if visible_to is None or owner == visible_to]
    others = len(users) - len(named) if last else 0
    if not named and not others:
        return
    more = len(named) - 3 + others if len(named) > 3 else others
    some = ", ".join(named[:3]) or "jobs of others"
    also = f" and {more} more" if more and named else ""
    raise DatasetInUse(f"needed by {some}{also}; cancel the jobs or wait for their end", jobs=named[:100])


# --- for those who submit ---------------------------------------------------------------------------------------------


def finder(database: Database, visible_to: str | None) -> FindDataset:
    """What `JobSpec.parse` asks for a dataset: the built-in ones cost no look into the database."""

    def look_up(name: str) -> DatasetInfo | None:
        if not name.startswith(UPLOADED):
            return DATASETS.get(name)
        if not _is_plain(name):
            return None
        with database.read() as session:
            row = find(session, name, visible_to)
        return None if row is None else info_of(row)

    return look_up


def lock_for_job(session: Session, name: str, visible_to: str | None) -> None:
    """Keep the dataset from being deleted until this transaction has made its job."""
    if not name.startswith(UPLOADED):
        return
    owners = session.scalar(select(DatasetRow.owners).where(DatasetRow.id == name).with_for_update(read=True))
    if owners is None or not (visible_to is None or visible_to in owners):
        raise InvalidSpec([FieldError("/dataset", "not_found", f"the dataset '{name}' has been deleted")])


def info_of(row: DatasetRow) -> DatasetInfo:
    return DatasetInfo.from_json(row.facts)
