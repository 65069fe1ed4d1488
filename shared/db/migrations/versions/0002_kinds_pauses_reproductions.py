"""kinds of jobs, pause requests, jobs that reproduce another

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # no batch mode: SQLite adds and drops these in place, and copying `jobs` would cascade to tables that refer to it
    op.add_column("jobs", sa.Column("kind", sa.String(length=16), nullable=False, server_default="training"))
    op.add_column("jobs", sa.Column("reproduces", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("pause_requested_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for column in ("pause_requested_at", "reproduces", "kind"):
        op.drop_column("jobs", column)
