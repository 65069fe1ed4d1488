"""The revision of the schema that this version of gradq needs.

Written down here so that a process that finds it in its database need not import Alembic: 10 MB in each.
"""

from __future__ import annotations

NEWEST_REVISION = "0012"  # the newest in shared/db/migrations/versions, which a test compares
NEWEST, VERSION_TABLE = "head", "alembic_version"
