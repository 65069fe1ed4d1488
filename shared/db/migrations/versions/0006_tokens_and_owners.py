"""tokens; owners of jobs, of datasets and of idempotency keys

Existing rows have no owner: they are visible to anonymous clients, where those are allowed, and to admins.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEPT = "fingerprint, token, state, status, headers, body, created_at, until"
FIRST_OF_ITS_NAME = "NOT EXISTS (SELECT 1 FROM kept AS other WHERE other.key = kept.key AND other.owner < kept.owner)"


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("jobs", sa.Column("owner", sa.String(length=64), nullable=True))
    op.create_index("ix_jobs_owner", "jobs", ["owner", "id"], unique=False)
    owners = sa.Column("owners", sa.JSON(none_as_null=True), nullable=False, server_default='{"": {}}')
    op.add_column("datasets", owners)
    _remake_keys(f"owner, key, {KEPT}", f"SELECT '', key, {KEPT} FROM kept", "owner", "key")  # constants of this file  # nosec B608


def downgrade() -> None:
    _remake_keys(f"key, {KEPT}", f"SELECT key, {KEPT} FROM kept WHERE {FIRST_OF_ITS_NAME}", "key")  # nosec B608
    op.drop_column("datasets", "owners")
    op.drop_index("ix_jobs_owner", "jobs")
    op.drop_column("jobs", "owner")
    op.drop_table("tokens")


def _remake_keys(columns: str, query: str, *primary_key: str) -> None:
    """SQLite cannot change the primary key of a table."""
    op.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM idempotency_keys")
    op.drop_index("ix_idempotency_keys_until", "idempotency_keys")
    op.drop_table("idempotency_keys")
    owner = [sa.Column("owner", sa.String(length=64), nullable=False)] if "owner" in primary_key else []
    op.create_table(
        "idempotency_keys",
        *owner,
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(*primary_key),
    )
    op.execute(f"INSERT INTO idempotency_keys ({columns}) {query}")
    op.execute("DROP TABLE kept")
    op.create_index("ix_idempotency_keys_until", "idempotency_keys", ["until"], unique=False)
