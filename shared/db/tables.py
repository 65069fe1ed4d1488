"""SQLAlchemy tables. shared/jobs/states.py has the states of a job; jobs.py and queue.py there change them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.expression import FunctionElement


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime in Python; naive UTC in SQLite, which has no time zones; timestamptz in PostgreSQL."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_now(FunctionElement[datetime]):
    """SQL expression: the database's time plus `seconds`. Leases use this clock, since the hosts' clocks may differ."""

    type = UtcDateTime()
    inherit_cache = True  # `seconds` is a bound parameter, so that SQLAlchemy can cache the compiled statement

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(literal(float(seconds), Float()))


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: Any, **kw: Any) -> str:
    # %f has milliseconds; SQLAlchemy stores microseconds, and SQLite compares the values as text
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(element.clauses, **kw)} || ' seconds')"


@compiles(database_now, "postgresql")
def _postgresql_now(element: database_now, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
    }


class Job(Base):
    """One job. This row is the single source of truth for its state."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(64))  # None: submitted without a token
    name: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16), server_default="training")  # a key of shared.spec.job_spec.KINDS
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(Integer)
    device: Mapped[str] = mapped_column(String(8))  # the requested device: auto, cpu or cuda

    attempt: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)  # lost attempts; drained and paused ones do not count
    reproduces: Mapped[str | None] = mapped_column(String(40))  # not a foreign key: the original may be deleted
    worker: Mapped[str | None] = mapped_column(String(128))
    lease_token: Mapped[str | None] = mapped_column(String(40))
    lease_until: Mapped[datetime | None]

    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    status_reason: Mapped[dict[str, Any] | None]
    last_seq: Mapped[int] = mapped_column(Integer, default=0)
    counted_lines: Mapped[int] = mapped_column(Integer, server_default="0")  # of the log, in `stored_bytes`

    created_at: Mapped[datetime]
    not_before: Mapped[datetime | None]  # retry backoff: not claimed earlier
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_jobs_queue", "state", "priority", "created_at", "owner", "id"),
        Index("ix_jobs_created", "created_at", "id"),
        Index("ix_jobs_owner", "owner", "id"),
        # of lists, newest first: each equality that a filter may ask for, then the id
        Index("ix_jobs_state", "state", "id"),
        Index("ix_jobs_owner_state", "owner", "state", "id"),
        Index("ix_jobs_name", "name", "id"),
    )


class JobLabel(Base):
    """One label of a job, as its row has it in JSON: a list by label reads a range of the primary key, newest first.
    shared/jobs/search_rows.py writes this table and the two below."""

    __tablename__ = "job_labels"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)

    __table_args__ = (Index("ix_job_labels_job", "job_id"),)


class JobName(Base):
    """One name that some job has, or a few of them."""

    __tablename__ = "job_names"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)


class NameGram(Base):
    """Three characters in lower case that follow each other in a name; at its end, the last two and the last one."""

    __tablename__ = "name_grams"

    # compared by its bytes, so that the grams that begin with a text are one range of the primary key
    gram: Mapped[str] = mapped_column(String(3).with_variant(String(3, collation="C"), "postgresql"), primary_key=True)
    name_id: Mapped[int] = mapped_column(ForeignKey("job_names.id", ondelete="CASCADE"), primary_key=True)

    __table_args__ = (Index("ix_name_grams_name", "name_id"),)


class Attempt(Base):
    """One attempt at a job by one worker."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    worker: Mapped[str] = mapped_column(String(128))
    device: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    resumed_from_step: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str | None] = mapped_column(String(32))


class EventRow(Base):
    """One line of a job's append-only log. (job_id, series, step) is unique, so that the curve has each point once."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    type: Mapped[str] = mapped_column(String(16))
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    series: Mapped[str | None] = mapped_column(String(8))  # metric events: epoch, batch or final
    step: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("job_id", "series", "step", name="uq_events_point"),)


class CurveBlock(Base):
    """A block of a job's curve, or of one of its thinned levels: see shared/jobs/curve_blocks.py."""

    __tablename__ = "curve_blocks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    series: Mapped[str] = mapped_column(String(8), primary_key=True)
    level: Mapped[int] = mapped_column(Integer, primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    last_step: Mapped[int] = mapped_column(BigInteger)
    curves: Mapped[str] = mapped_column(Text)  # JSON


class ArtifactRow(Base):
    """One file of a finished job, stored under `key` in the artifact store."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    media_type: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime]

    # the jobs whose pictures are not drawn yet
    __table_args__ = (
        Index(
            "ix_artifacts_undrawn",
            "job_id",
            sqlite_where=text("name = 'undrawn.npz'"),
            postgresql_where=text("name = 'undrawn.npz'"),
        ),
    )


class CheckpointRow(Base):
    """One complete checkpoint, from which a later attempt can resume."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    epoch: Mapped[int] = mapped_column(Integer)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime]


class DatasetRow(Base):
    """One uploaded dataset; its arrays are in the artifact store, below `folder`."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # derived from the upload's sha256 and its options
    owners: Mapped[dict[str, Any]] = mapped_column(server_default='{"": {}}')  # owner -> {"name", "created_at"}
    name: Mapped[str] = mapped_column(String(128))
    sha256: Mapped[str] = mapped_column(String(64))  # of what was uploaded
    facts: Mapped[dict[str, Any]]  # shared.datasets.catalog.DatasetInfo as JSON
    options: Mapped[dict[str, Any]]  # how it was decoded: format, split, size
    folder: Mapped[str] = mapped_column(String(128))
    files: Mapped[dict[str, Any]]  # name -> {"size_bytes", "sha256"}
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]

    __table_args__ = (Index("ix_datasets_created", "created_at", "id"),)


class FileRemoval(Base):
    """A folder of the artifact store to remove: its job or dataset has been deleted. See shared/file_removals.py."""

    __tablename__ = "file_removals"

    key: Mapped[str] = mapped_column(String(256), primary_key=True)
    created_at: Mapped[datetime]


class Tally(Base):
    """One change of a counter, or the sum of many: see shared/jobs/counters.py."""

    __tablename__ = "tallies"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(32))
    label: Mapped[str] = mapped_column(String(64))
    count: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[float] = mapped_column(Float)


class StoredBytes(Base):
    """One change of the bytes that an owner has stored, or the sum of many: see shared/jobs/stored_bytes.py."""

    __tablename__ = "stored_bytes"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))  # empty: anonymous
    kind: Mapped[str] = mapped_column(String(16))  # one of shared.jobs.stored_bytes.KINDS
    size_bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (Index("ix_stored_bytes_owner", "owner", "kind", "size_bytes"),)


class IdempotencyKey(Base):
    """An idempotency key and the response to its first request. `until`, on the database's clock, is the end of the
    claim of a pending key, and the time until which a settled one is kept."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)  # empty: anonymous
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # sha256 of method, address and body
    token: Mapped[str] = mapped_column(String(32))  # of the claim
    state: Mapped[str] = mapped_column(String(8))  # pending or settled
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    until: Mapped[datetime]

    __table_args__ = (Index("ix_idempotency_keys_until", "until"),)


class Token(Base):
    """An API token. The secret itself is not stored; it is shown once, when the token is created."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(16))  # one of shared.tokens.SCOPES
    sha256: Mapped[str] = mapped_column(String(64))  # of the secret
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    max_priority: Mapped[int | None] = mapped_column(Integer)  # of the jobs that it submits or changes; None: any


class AuditRow(Base):
    """One change with the actor who made it, or one refused request, or `count` of them: see shared/audit.py."""

    __tablename__ = "audit"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    at: Mapped[datetime]
    owner: Mapped[str | None] = mapped_column(String(64))
    token_id: Mapped[str | None] = mapped_column(String(40))
    address: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[int | None] = mapped_column(Integer)
    request_id: Mapped[str | None] = mapped_column(String(128))
    count: Mapped[int] = mapped_column(Integer, server_default="1")

    __table_args__ = (
        Index("ix_audit_at", "at"),
        Index("ix_audit_object", "object_id", "id"),
        Index("ix_audit_owner", "owner", "id"),
        Index("ix_audit_action", "action", "id"),
    )


class Worker(Base):
    """A worker with its slots and devices. `seen_at` is the time of its last heartbeat, on the database's clock."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    host: Mapped[str] = mapped_column(String(128))
    pid: Mapped[int] = mapped_column(Integer)
    slots: Mapped[int] = mapped_column(Integer)
    free_slots: Mapped[int] = mapped_column(Integer)
    draining: Mapped[bool]
    devices: Mapped[dict[str, Any]]
    version: Mapped[str] = mapped_column(String(32))
    outage: Mapped[str | None] = mapped_column(String(32))  # why it claims no job: store_unavailable, disk_full
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class Leader(Base):
    """The leader of each role, one row per role. Once `until` has passed, any process may take the role."""

    __tablename__ = "leaders"

    office: Mapped[str] = mapped_column(String(32), primary_key=True)  # the role; renaming would need a migration
    holder: Mapped[str] = mapped_column(String(128))
    until: Mapped[datetime]
    term: Mapped[float] = mapped_column(Float)  # length in seconds, for operators who read the table
