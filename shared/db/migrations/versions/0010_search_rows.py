"""search rows: labels and names of jobs in tables of their own, and an index for each filter of the job list

The labels of existing jobs are copied; they stay in the job's row as well.

Revision: 0010, after 0009
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BATCH = 1000
INDEXES = {
    "ix_jobs_state": ["state", "id"],
    "ix_jobs_owner_state": ["owner", "state", "id"],
    "ix_jobs_name": ["name", "id"],
}


def upgrade() -> None:
    labels = op.create_table(
        "job_labels",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", "value", "job_id"),
    )
    names = op.create_table(
        "job_names",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    in_bytes = sa.String(length=3).with_variant(sa.String(length=3, collation="C"), "postgresql")
    grams = op.create_table(
        "name_grams",
        sa.Column("gram", in_bytes, nullable=False),
        sa.Column("name_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["name_id"], ["job_names.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("gram", "name_id"),
    )
    _copy_labels(labels)
    _copy_names(names, grams)
    op.create_index("ix_job_labels_job", "job_labels", ["job_id"], unique=False)
    op.create_index("ix_name_grams_name", "name_grams", ["name_id"], unique=False)
    for name, columns in INDEXES.items():
        op.create_index(name, "jobs", columns, unique=False)
    op.create_index("ix_audit_action", "audit", ["action", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_audit_action", "audit")
    for name in reversed(INDEXES):
        op.drop_index(name, "jobs")
    op.drop_table("name_grams")
    op.drop_table("job_names")
    op.drop_table("job_labels")


def _copy_labels(table: sa.Table) -> None:
    """Batch by batch, in the order of ids: a large service has more jobs than fit into memory with their labels."""
    connection = op.get_bind()
    batch = sa.text("SELECT id, labels FROM jobs WHERE id > :after ORDER BY id LIMIT :batch")
    after = ""
    while found := connection.execute(batch, {"after": after, "batch": BATCH}).all():
        after = found[-1].id
        rows = [
            {"key": key, "value": value, "job_id": row.id}
            for row in found
            for key, value in (json.loads(row.labels) if isinstance(row.labels, str) else row.labels).items()
        ]
        if rows:
            connection.execute(sa.insert(table), rows)


def _copy_names(table: sa.Table, grams: sa.Table) -> None:
    connection = op.get_bind()
    known = connection.scalars(sa.text("SELECT DISTINCT name FROM jobs ORDER BY name")).all()
    for first in range(0, len(known), BATCH):
        numbered = list(enumerate(known[first : first + BATCH], first + 1))
        connection.execute(sa.insert(table), [{"id": number, "name": name} for number, name in numbered])
        if rows := [{"gram": gram, "name_id": number} for number, name in numbered for gram in _grams(name)]:
            connection.execute(sa.insert(grams), rows)
    if known and connection.dialect.name == "postgresql":
        op.execute("SELECT setval(pg_get_serial_sequence('job_names', 'id'), max(id)) FROM job_names")


def _grams(name: str) -> set[str]:
    """As shared/jobs/search_rows.py had them at this revision."""
    text = "".join(character.lower()[0] for character in name)
    return {text[place : place + 3] for place in range(len(text))}
