"""undrawn: an index of the jobs whose pictures are not drawn yet

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

IS_UNDRAWN = sa.text("name = 'undrawn.npz'")


def upgrade() -> None:
    op.create_index(
        "ix_artifacts_undrawn",
        "artifacts",
        ["job_id"],
        unique=False,
        sqlite_where=IS_UNDRAWN,
        postgresql_where=IS_UNDRAWN,
    )


def downgrade() -> None:
    """Pictures that are not drawn by then never will be: the rows would be files of an unknown name."""
    op.execute("DELETE FROM artifacts WHERE name = 'undrawn.npz'")
    op.drop_index("ix_artifacts_undrawn", "artifacts")
