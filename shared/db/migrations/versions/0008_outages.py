"""outages: which workers claim no job because of one, and the files to remove once the store is back

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_removals",
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.add_column("workers", sa.Column("outage", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "outage")
    op.drop_table("file_removals")
