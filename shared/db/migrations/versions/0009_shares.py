"""shares: bytes stored per owner, the highest priority of a token, repeated refusals in the audit log

Tokens that exist keep the whole range of priorities. The index of the queue gets the owner, which positions need.

Revision: 0009, after 0008
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

LINE_BYTES, JOB_BYTES = 400, 4096  # as shared/jobs/stored_bytes.py had them at this revision
OF_JOBS = """
INSERT INTO stored_bytes (owner, kind, size_bytes)
SELECT coalesce(jobs.owner, ''), '{table}', sum({table}.size_bytes)
FROM {table} JOIN jobs ON jobs.id = {table}.job_id GROUP BY coalesce(jobs.owner, '')
"""
AUDIT_BYTES, LINE_TEXT, JOB_TEXT = 400, 200, 2000
LONG_JOB = "CASE WHEN {job} > {job_text} THEN {job} - {job_text} ELSE 0 END"
LONG_LINES = """
coalesce((SELECT sum(CASE WHEN {line} > {line_text} THEN {line} - {line_text} ELSE 0 END)
          FROM events WHERE events.job_id = jobs.id AND events.seq <= jobs.counted_lines), 0)
"""
OF_LOGS = """
INSERT INTO stored_bytes (owner, kind, size_bytes)
SELECT coalesce(owner, ''), 'logs', sum({job_bytes} + {line_bytes} * counted_lines + {long_job} + {long_lines})
FROM jobs WHERE counted_lines > 0 GROUP BY coalesce(owner, '')
"""
OF_AUDIT = """
INSERT INTO stored_bytes (owner, kind, size_bytes)
SELECT coalesce(owner, ''), 'audit', {audit_bytes} * count(*) FROM audit GROUP BY coalesce(owner, '')
"""


def upgrade() -> None:
    op.create_table(
        "stored_bytes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_stored_bytes_owner", "stored_bytes", ["owner", "kind", "size_bytes"], unique=False)
    op.add_column("jobs", sa.Column("counted_lines", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("tokens", sa.Column("max_priority", sa.Integer(), nullable=True))
    op.add_column("audit", sa.Column("count", sa.Integer(), nullable=False, server_default="1"))
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index("ix_jobs_queue", "jobs", ["state", "priority", "created_at", "owner", "id"], unique=False)
    op.execute("UPDATE jobs SET counted_lines = last_seq WHERE state IN ('succeeded', 'failed', 'cancelled')")
    for table in ("artifacts", "checkpoints"):
        op.execute(OF_JOBS.format(table=table))
    _count_logs()
    _count_datasets()


def downgrade() -> None:
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index("ix_jobs_queue", "jobs", ["state", "priority", "created_at"], unique=False)
    op.drop_column("audit", "count")
    op.drop_column("tokens", "max_priority")
    op.drop_column("jobs", "counted_lines")
    op.drop_table("stored_bytes")


def _count_logs() -> None:
    """Of ended jobs, and of the audit log, as shared/jobs/stored_bytes.py counts them."""
    octets = "octet_length({}::text)" if op.get_bind().dialect.name == "postgresql" else "length(CAST({} AS BLOB))"
    job = " + ".join(octets.format(f"jobs.{column}") for column in ("spec", "labels", "name"))
    line = " + ".join(octets.format(f"events.{column}") for column in ("message", "data"))
    long_job = LONG_JOB.format(job=f"({job})", job_text=JOB_TEXT)
    long_lines = LONG_LINES.format(line=f"({line})", line_text=LINE_TEXT)
    sizes = {"job_bytes": JOB_BYTES, "line_bytes": LINE_BYTES, "long_job": long_job, "long_lines": long_lines}
    op.execute(OF_LOGS.format(**sizes))
    op.execute(OF_AUDIT.format(audit_bytes=AUDIT_BYTES))


def _count_datasets() -> None:
    """A dataset counts for each of its owners."""
    connection = op.get_bind()
    for owners, size_bytes in connection.execute(sa.text("SELECT owners, size_bytes FROM datasets")).all():
        for owner in json.loads(owners) if isinstance(owners, str) else owners:
            row = {"owner": owner, "size_bytes": size_bytes}
            text = "INSERT INTO stored_bytes (owner, kind, size_bytes) VALUES (:owner, 'datasets', :size_bytes)"
            connection.execute(sa.text(text), row)
