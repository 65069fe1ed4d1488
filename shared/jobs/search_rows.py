"""The rows by which a list finds jobs: one for each label of a job, and for each name that jobs have its grams.

A gram is three characters that follow each other; the last two characters of a name, and the last one, are grams too.
So each text in a name is the beginning of grams, however short it is, and those that begin with it are a range of an
index. Names are stored once: a thousand jobs of one name have one row here.
"""

from __future__ import annotations

from sqlalchemy import Select, and_, bindparam, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared.db.tables import Job, JobLabel, JobName, NameGram

LENGTH = 3  # characters of a gram
LAST = "\U0010ffff"  # sorts after all characters of a name

# the lock keeps PostgreSQL from deleting the name before the transaction that inserts a job of that name has ended
_known = select(JobName.id).where(JobName.name == bindparam("name")).with_for_update(read=True, key_share=True)
_some_job = select(Job.id).where(Job.name == bindparam("name")).limit(1)


def add(session: Session, job_id: str, name: str, labels: dict[str, str]) -> None:
    """Add the rows of a new job, whose own row has been inserted."""
    _add_name(session, name)
    _add_labels(session, job_id, labels)


def rename(session: Session, before: str, name: str) -> None:
    """A job that was named `before` is named `name`, and its row says so already."""
    _add_name(session, name)
    forget(session, before)


def relabel(session: Session, job_id: str, labels: dict[str, str]) -> None:
    """Replace the rows of a job's labels."""
    session.execute(delete(JobLabel).where(JobLabel.job_id == job_id))
    _add_labels(session, job_id, labels)


def forget(session: Session, name: str) -> None:
    """Delete the name if no job has it. Called when a job has been deleted or renamed; deleting a job deletes its
    labels.

    A name that another transaction is about to use or to delete is left alone: one without jobs finds none.
    """
    if session.scalar(_some_job, {"name": name}) is not None:
        return
    unlocked = select(JobName.id).where(JobName.name == name).with_for_update(skip_locked=True)
    found = session.scalar(unlocked)
    if found is not None and session.scalar(_some_job, {"name": name}) is None:  # none since the lock was taken
        session.execute(delete(NameGram).where(NameGram.name_id == found))
        session.execute(delete(JobName).where(JobName.id == found))


def grams(text: str) -> set[str]:
    """The grams of a text, in lower case. Characters whose lower case is several count as the first of them."""
    lower = "".join(character.lower()[0] for character in text)
    return {lower[place : place + LENGTH] for place in range(len(lower))}


def names_with(text: str) -> Select[tuple[int]]:
    """The ids of the names that may have this text in them, in any case: all that have one of its grams. `text` has 1
    to LENGTH characters."""
    (prefix,) = {gram for gram in grams(text) if len(gram) == len(text)}
    begins = and_(NameGram.gram >= prefix, NameGram.gram < prefix + LAST)
    return select(NameGram.name_id).where(begins if len(prefix) < LENGTH else NameGram.gram == prefix)


def _add_name(session: Session, name: str) -> None:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    new = dialect.insert(JobName).on_conflict_do_nothing(index_elements=["name"]).returning(JobName.id)
    while session.scalar(_known, {"name": name}) is None:  # again if another transaction deletes it in between
        number = session.scalar(new, {"name": name})
        if number is not None:
            if rows := [{"gram": gram, "name_id": number} for gram in sorted(grams(name))]:
                session.execute(insert(NameGram), rows)
            return


def _add_labels(session: Session, job_id: str, labels: dict[str, str]) -> None:
    if labels:
        rows = [{"key": key, "value": value, "job_id": job_id} for key, value in labels.items()]
        session.execute(insert(JobLabel), rows)
