"""Alembic's entry point: runs the revisions on the connection that shared/db/migrate.py passes in."""

from alembic import context

from shared.db.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
