"""The audit log on both databases: a change and its row are committed together."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from support.store import read, write

from shared import audit
from shared.audit import HOST, Actor, AuditFilter
from shared.db.database import Database
from shared.db.tables import AuditRow
from shared.jobs.joblog import now

ALICE = Actor("alice", "tok_1", "10.0.0.7", "request-1")


def test_a_change_that_is_rolled_back_leaves_no_row(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        audit.note(session, ALICE, "jobs.submit", "job_1", 202)
        raise ZeroDivisionError
    assert read(database, audit.page, AuditFilter(), 10) == []


def test_what_was_noted_is_found_newest_first_and_by_each_filter(database: Database) -> None:
    write(database, audit.note, ALICE, "jobs.submit", "job_1", 202)
    write(database, audit.note, ALICE, "jobs.submit", "job_2", 202)
    write(database, audit.note, HOST, "token.revoke", "tok_1")
    found = read(database, audit.page, AuditFilter(), 10)
    assert [(row.owner, row.address, row.action, row.object_id, row.status) for row in found] == [
        (None, None, "token.revoke", "tok_1", None),
        ("alice", "10.0.0.7", "jobs.submit", "job_2", 202),
        ("alice", "10.0.0.7", "jobs.submit", "job_1", 202),
    ]
    by = {
        AuditFilter(owner="alice"): ["job_2", "job_1"],
        AuditFilter(action="token.revoke"): ["tok_1"],
        AuditFilter(object_id="job_1"): ["job_1"],
        AuditFilter(since=now() + timedelta(minutes=1)): [],
        AuditFilter(after=found[1].id): ["job_1"],
    }
    for wanted, expected in by.items():
        assert [row.object_id for row in read(database, audit.page, wanted, 10)] == expected, wanted


def test_rows_are_forgotten_when_their_time_is_over(database: Database) -> None:
    write(database, audit.note, ALICE, "jobs.submit", "job_1", 202)
    write(database, lambda session: session.execute(update(AuditRow).values(at=now() - timedelta(days=3))))
    write(database, audit.note, ALICE, "jobs.submit", "job_2", 202)
    write(database, audit.sweep, 3.5, now())
    assert len(read(database, audit.page, AuditFilter(), 10)) == 2
    write(database, audit.sweep, 2, now())
    assert [row.object_id for row in read(database, audit.page, AuditFilter(), 10)] == ["job_2"]
