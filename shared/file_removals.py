"""Folders of the artifact store that are to be removed, written in the transaction that deletes their rows.

So no file outlives its row because the store was away at that moment: the leader removes what is listed here. The API
also removes the folder at once, to report how many bytes that freed; removing it again is harmless.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from shared.db.database import upsert
from shared.db.tables import FileRemoval, database_now


def add(session: Session, key: str) -> None:
    """List a folder, in the transaction that deletes its rows; one that is listed goes to the end."""
    upsert(session, FileRemoval, {"key"}, {"key": key, "created_at": database_now()})


def oldest(session: Session, limit: int) -> Sequence[str]:
    """The keys of the folders that have been listed longest."""
    return session.scalars(select(FileRemoval.key).order_by(FileRemoval.created_at).limit(limit)).all()


def done(session: Session, keys: Sequence[str]) -> None:
    """Take removed folders off the list."""
    session.execute(delete(FileRemoval).where(FileRemoval.key.in_(keys)))
