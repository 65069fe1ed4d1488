"""Bytes stored per owner: artifacts, checkpoints, datasets, and the logs of jobs; and the limit on their sum.

Anonymous use is one owner. A dataset counts for each owner who uploaded it. Rows and log of a job are counted by the
number of lines, with each checkpoint, when a client changes the job, and when it ends; until then the limit on queued
jobs bounds them. As in shared/jobs/counters.py, each change is inserted as a row in the transaction that it counts, and
the leader folds the rows of an owner and kind into one.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ColumnElement, bindparam, case, cast, delete, func, insert, literal, select, update
from sqlalchemy.orm import Session

from shared.db.tables import ArtifactRow, CheckpointRow, DatasetRow, Job, StoredBytes
from shared.errors import OwnerStorageFull
from shared.jobs import counters

KINDS = ("artifacts", "checkpoints", "datasets", "logs")
ANONYMOUS = ""  # the owner of what was stored without a token
LINE_BYTES, JOB_BYTES = 400, 4096  # of a line of a log, of a job's row; in the database, with their indexes
FOLD_ABOVE = 200  # rows more than there are owners and kinds

_used = (
    select(StoredBytes.kind, func.sum(StoredBytes.size_bytes))
    .where(StoredBytes.owner == bindparam("owner"))
    .group_by(StoredBytes.kind)
)


def add(session: Session, owner: str | None, kind: str, size_bytes: int) -> None:
    """Count stored bytes of an owner, or removed ones if negative."""
    if size_bytes:
        session.execute(insert(StoredBytes).values(owner=owner or ANONYMOUS, kind=kind, size_bytes=size_bytes))


def add_of_job(session: Session, job_id: str, kind: str, size_bytes: int) -> None:
    """Count stored bytes of a job, for its owner and for /metrics; removed ones if negative."""
    if size_bytes:
        counters.stored(session, kind, size_bytes)
        _insert_for_owner(session, job_id, kind, literal(size_bytes, BigInteger()))


def count_log(session: Session, job_id: str) -> None:
    """Count the job's row, and the lines of its log that are not counted yet."""
    lines = Job.last_seq - Job.counted_lines
    row = case((Job.counted_lines == 0, JOB_BYTES), else_=0)
    _insert_for_owner(session, job_id, "logs", cast(LINE_BYTES * lines + row, BigInteger()))
    counted = update(Job).where(Job.id == job_id).values(counted_lines=Job.last_seq)
    session.execute(counted, execution_options={"synchronize_session": False})


def remove_log(session: Session, job_id: str) -> None:
    """Undo `count_log`, in the transaction that deletes the job."""
    counted = -(LINE_BYTES * Job.counted_lines + case((Job.counted_lines > 0, JOB_BYTES), else_=0))
    _insert_for_owner(session, job_id, "logs", cast(counted, BigInteger()))


def used_by(session: Session, owner: str | None) -> dict[str, int]:
    """The bytes that an owner has stored, by kind. One indexed read."""
    rows = session.connection().execute(_used, {"owner": owner or ANONYMOUS})  # in half the time of session.execute()
    found = {kind: int(size) for kind, size in rows}
    return {kind: found.get(kind, 0) for kind in KINDS}


def check(session: Session, owner: str | None, limit: int | None, more: int = 1) -> None:
    """Raise OwnerStorageFull if the owner's bytes and `more` of them exceed the limit; None is no limit."""
    if limit is None:
        return
    used = used_by(session, owner)
    if sum(used.values()) + more > limit:
        raise full(owner, used, limit)


def full(owner: str | None, used: dict[str, int], limit: int) -> OwnerStorageFull:
    """The error that names what is used, the limit, and what to delete."""
    total = sum(used.values())
    parts = ", ".join(f"{kind} {_size(size)}" for kind, size in sorted(used.items(), key=lambda item: -item[1]) if size)
    detail = (
        f"{owner or 'anonymous use'} stores {_size(total)}{f' ({parts})' if parts else ''} and may store "
        f"{_size(limit)}; delete ended jobs or datasets (GRADQ_MAX_OWNER_BYTES)"
    )
    return OwnerStorageFull(detail, used_bytes=total, limit_bytes=limit, used=used)


def fold(session: Session) -> None:
    """Replace the rows of each owner and kind by one, in the caller's transaction; readers see the same sums."""
    labels = select(StoredBytes.owner, StoredBytes.kind).distinct().subquery()
    rows = session.scalar(select(func.count()).select_from(StoredBytes)) or 0
    if rows <= FOLD_ABOVE or rows - (session.scalar(select(func.count()).select_from(labels)) or 0) <= FOLD_ABOVE:
        return
    sums: dict[tuple[str, str], int] = {}
    gone = delete(StoredBytes).returning(StoredBytes.owner, StoredBytes.kind, StoredBytes.size_bytes)
    for owner, kind, size in session.execute(gone):
        sums[owner, kind] = sums.get((owner, kind), 0) + size
    for (owner, kind), size in sorted(sums.items()):
        add(session, owner, kind, size)


def recount(session: Session) -> None:
    """Set the sums to what the rows of jobs, files and datasets say, after rows were restored or left out."""
    true = _truth(session)
    sums = select(StoredBytes.owner, StoredBytes.kind, func.sum(StoredBytes.size_bytes))
    found = {
        (owner, kind): int(size)
        for owner, kind, size in session.execute(sums.group_by(StoredBytes.owner, StoredBytes.kind))
    }
    for owner, kind in sorted(true.keys() | found.keys()):
        add(session, owner, kind, true.get((owner, kind), 0) - found.get((owner, kind), 0))


def _truth(session: Session) -> dict[tuple[str, str], int]:
    true: dict[tuple[str, str], int] = {}
    of = func.coalesce(Job.owner, ANONYMOUS)
    for table in (ArtifactRow, CheckpointRow):
        sums = select(of, func.sum(table.size_bytes)).join(Job, Job.id == table.job_id).group_by(of)
        true |= {(owner, table.__tablename__): int(size) for owner, size in session.execute(sums)}
    lines = select(of, func.sum(JOB_BYTES + LINE_BYTES * Job.counted_lines)).where(Job.counted_lines > 0).group_by(of)
    true |= {(owner, "logs"): int(size) for owner, size in session.execute(lines)}
    for owners, size in session.execute(select(DatasetRow.owners, DatasetRow.size_bytes)):
        for owner in owners:
            true[owner, "datasets"] = true.get((owner, "datasets"), 0) + size
    return true


def _insert_for_owner(session: Session, job_id: str, kind: str, size_bytes: ColumnElement[int]) -> None:
    values = select(func.coalesce(Job.owner, ANONYMOUS), literal(kind), size_bytes).where(Job.id == job_id)
    session.execute(insert(StoredBytes).from_select(["owner", "kind", "size_bytes"], values))


def _size(size_bytes: int) -> str:
    """`1.5 GB` for 1_500_000_000."""
    size, units = float(size_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while abs(size) >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size_bytes} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
