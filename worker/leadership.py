"""Leader election through the database: one row per role, held for a term and renewed before the term ends.

Once a term has ended, any process may take the role.
"""

from __future__ import annotations

from sqlalchemy import or_
from sqlalchemy.orm import Session

from shared.db.database import upsert
from shared.db.tables import Leader, database_now


def acquire_leadership(session: Session, role: str, holder: str, seconds: float) -> bool:
    """Take or renew the leadership of `role` for `seconds`. Returns False if another holder has it.

    A term that ends more than ten times `seconds` from now was written before the database's clock was set back, and
    counts as ended.
    """
    values = {"office": role, "holder": holder, "until": database_now(seconds), "term": seconds}
    ended = or_(Leader.until < database_now(), Leader.until > database_now(10 * seconds))
    mine_or_free = or_(Leader.holder == holder, ended)
    return upsert(session, Leader, {"office"}, values, where=mine_or_free)
