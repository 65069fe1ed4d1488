"""Bytes stored per owner: artifacts, checkpoints, datasets, the logs of jobs, and the audit log; and the limit on their
sum.

Anonymous use is one owner. A dataset counts for each owner who uploaded it. Rows and log of a job are counted by the
number of lines and their texts, with each checkpoint, when a client changes the job, and when it ends; until then the
limit on queued jobs bounds them, which anonymous use does not have. As in shared/jobs/counters.py, each change is
inserted as a row in the transaction that it counts, and the leader folds the rows of an owner and kind into one. Rows
of the audit log, which stay when a job is deleted, are counted by the leader every hour.
"""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    LargeBinary,
    Text,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Session

from shared.db.tables import ArtifactRow, AuditRow, CheckpointRow, DatasetRow, EventRow, Job, StoredBytes
from shared.errors import OwnerStorageFull
from shared.jobs import counters

KINDS = ("artifacts", "checkpoints", "datasets", "logs", "audit")
ANONYMOUS = ""  # the owner of what was stored without a token
# of a line of a log, of a job's row, of a row of the audit log: in the database, with their indexes
LINE_BYTES, JOB_BYTES, AUDIT_BYTES = 400, 4096, 400
LINE_TEXT, JOB_TEXT = 200, 2000  # bytes of texts in these; longer ones are counted as well
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
    session.flush()
    session.execute(_counts(_dialect(session))["uncounted"], {"job_id": job_id, **_sizes()})
    counted = update(Job).where(Job.id == job_id).values(counted_lines=Job.last_seq)
    session.execute(counted, execution_options={"synchronize_session": False})


def count_row_again(session: Session, job_id: str, before: int) -> None:
    """Count what the job's row has grown since it had `before` bytes of texts, of a job that is counted already."""
    grown = max(0, row_text(session, job_id) - JOB_TEXT) - max(0, before - JOB_TEXT)
    if grown:
        size = case((Job.counted_lines > 0, grown), else_=0)
        _insert_for_owner(session, job_id, "logs", cast(size, BigInteger()))


def row_text(session: Session, job_id: str) -> int:
    """The bytes of the texts in the job's row."""
    return session.scalar(_counts(_dialect(session))["row text"], {"job_id": job_id}) or 0


def remove_log(session: Session, job_id: str) -> None:
    """Undo `count_log`, in the transaction that deletes the job."""
    session.flush()
    session.execute(_counts(_dialect(session))["removed"], {"job_id": job_id, **_sizes()})


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


def recount(session: Session, kinds: tuple[str, ...] = KINDS) -> None:
    """Set the sums of these kinds to what the rows of jobs, files, datasets and the audit log say."""
    true = {place: size for kind in kinds for place, size in _truth(session, kind).items()}
    sums = select(StoredBytes.owner, StoredBytes.kind, func.sum(StoredBytes.size_bytes))
    found = {
        (owner, kind): int(size)
        for owner, kind, size in session.execute(
            sums.where(StoredBytes.kind.in_(kinds)).group_by(StoredBytes.owner, StoredBytes.kind)
        )
    }
    for owner, kind in sorted(true.keys() | found.keys()):
        add(session, owner, kind, true.get((owner, kind), 0) - found.get((owner, kind), 0))


def _truth(session: Session, kind: str) -> dict[tuple[str, str], int]:
    if kind == "datasets":
        true: dict[tuple[str, str], int] = {}
        for owners, size in session.execute(select(DatasetRow.owners, DatasetRow.size_bytes)):
            for owner in owners:
                true[owner, kind] = true.get((owner, kind), 0) + size
        return true
    if kind == "logs":
        query, sizes = _counts(_dialect(session))["all"], _sizes()
    elif kind == "audit":
        of = func.coalesce(AuditRow.owner, ANONYMOUS)
        query, sizes = select(of, AUDIT_BYTES * func.count()).group_by(of), {}
    else:
        of = func.coalesce(Job.owner, ANONYMOUS)
        table: Any = {"artifacts": ArtifactRow, "checkpoints": CheckpointRow}[kind]
        query, sizes = select(of, func.sum(table.size_bytes)).join(Job, Job.id == table.job_id).group_by(of), {}
    return {(owner, kind): int(size) for owner, size in session.execute(query, sizes)}


def _sizes() -> dict[str, int]:
    return {"row": JOB_BYTES, "line": LINE_BYTES, "row_text": JOB_TEXT, "line_text": LINE_TEXT}


@functools.cache
def _counts(dialect: str) -> dict[str, Any]:
    """Statements about the bytes of jobs' rows and logs, built once: building one takes as long as running it."""

    def octets(column: Any) -> ColumnElement[int]:
        text = cast(column, Text)
        return func.octet_length(text) if dialect == "postgresql" else func.length(cast(text, LargeBinary))

    def above(size: ColumnElement[int], name: str) -> ColumnElement[int]:
        limit = bindparam(name, type_=Integer)
        return case((size > limit, size - limit), else_=0)

    row, line = bindparam("row", type_=BigInteger), bindparam("line", type_=BigInteger)
    row_text = octets(Job.spec) + octets(Job.labels) + octets(Job.name)
    line_text = above(octets(EventRow.message) + octets(EventRow.data), "line_text")
    of_row = row + above(row_text, "row_text")

    def texts(*where: ColumnElement[bool]) -> ColumnElement[int]:
        found = select(func.sum(line_text)).where(EventRow.job_id == Job.id, *where).correlate(Job)
        return func.coalesce(found.scalar_subquery(), 0)

    uncounted = (
        case((Job.counted_lines == 0, of_row), else_=0)
        + line * (Job.last_seq - Job.counted_lines)
        + texts(EventRow.seq > Job.counted_lines)
    )
    counted = case(
        (Job.counted_lines > 0, of_row + line * Job.counted_lines + texts(EventRow.seq <= Job.counted_lines)), else_=0
    )
    of_owner = func.coalesce(Job.owner, ANONYMOUS)
    one = Job.id == bindparam("job_id")

    def inserted(size: ColumnElement[int]) -> Any:
        values = select(of_owner, literal("logs"), cast(size, BigInteger())).where(one)
        # into the table: the ORM takes parameters of an INSERT for values of its columns
        return insert(StoredBytes.metadata.tables[StoredBytes.__tablename__]).from_select(
            ["owner", "kind", "size_bytes"], values
        )

    return {
        "uncounted": inserted(uncounted),
        "removed": inserted(-counted),
        "row text": select(row_text).where(one),
        "all": select(of_owner, func.sum(counted)).where(Job.counted_lines > 0).group_by(of_owner),
    }


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


def _insert_for_owner(session: Session, job_id: str, kind: str, size_bytes: ColumnElement[int]) -> None:
    values = select(func.coalesce(Job.owner, ANONYMOUS), literal(kind), size_bytes).where(Job.id == job_id)
    session.execute(insert(StoredBytes).from_select(["owner", "kind", "size_bytes"], values))


def _size(size_bytes: int) -> str:
    """`1.5 GB` for 1_500_000_000."""
    size, units = float(size_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while abs(size) >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size_bytes} bytes" if units[0] == "bytes" else f"{size:.1f} {units[0]}"
