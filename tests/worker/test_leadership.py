"""Leader election, on both databases."""

from __future__ import annotations

from sqlalchemy import update
from support.store import ROUNDS, at_once, write
from support.waiting import wait_for

from shared.db.database import Database
from shared.db.tables import Leader, database_now
from worker import leadership


def test_a_role_has_one_leader_who_can_renew(database: Database) -> None:
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 60)
    assert not write(database, leadership.acquire_leadership, "reconciler", "w2", 60)
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 60)
    assert write(database, leadership.acquire_leadership, "another", "w2", 60)


def test_a_role_is_free_again_when_its_term_has_ended(database: Database) -> None:
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 0.05)
    wait_for(
        lambda: write(database, leadership.acquire_leadership, "reconciler", "w2", 60), 30, "the end of a term of 50 ms"
    )
    assert not write(database, leadership.acquire_leadership, "reconciler", "w1", 60)


def test_of_many_concurrent_candidates_one_becomes_leader(database: Database) -> None:
    for term in range(ROUNDS // 3):
        calls = [
            lambda w=w, t=term: write(database, leadership.acquire_leadership, f"role {t}", w, 60)
            for w in ("a", "b", "c")
        ]
        assert sorted(at_once(*calls)) == [False, False, True]


def test_a_term_from_before_the_clock_was_set_back_has_ended(database: Database) -> None:
    write(database, leadership.acquire_leadership, "reconciler", "dead", 6)
    ahead = update(Leader).values(until=database_now(3600)).execution_options(synchronize_session=False)
    write(database, lambda session: session.execute(ahead))
    assert write(database, leadership.acquire_leadership, "reconciler", "w1", 6)
