"""tallies: counters that outlive the jobs they count

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STORED = """
INSERT INTO tallies (name, label, count, total)
SELECT 'stored_bytes', '{table}', 0, sum(size_bytes) FROM {table} HAVING count(*) > 0
"""


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for table in ("artifacts", "checkpoints", "datasets"):
        op.execute(STORED.format(table=table))


def downgrade() -> None:
    op.drop_table("tallies")
