"""Leader election: one row per role, taken for a term and renewed; a term that has run out is free to take."""

from __future__ import annotations

from sqlalchemy import or_
from sqlalchemy.orm import Session

from shared.db.database import upsert
from shared.db.tables import Leader, database_now


def acquire_leadership(session: Session, office: str, holder: str, seconds: float) -> bool:
    """Become or stay the one who holds `office` for the next `seconds`; False: somebody else does.

    A term that ends at ten times that was written before the clock was put back, and is over.
    """
    values = {"office": office, "holder": holder, "until": database_now(seconds), "term": seconds}
    over = or_(Leader.until < database_now(), Leader.until > database_now(10 * seconds))
    mine_or_free = or_(Leader.holder == holder, over)
    return upsert(session, Leader, {"office"}, values, where=mine_or_free)
