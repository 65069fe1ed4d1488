"""Idempotency keys on both databases: one claim, one stored response, and an expiry."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from support.store import ROUNDS, at_once, write

from shared import idempotency
from shared.db.database import Database
from shared.db.tables import IdempotencyKey, database_now
from shared.errors import IdempotencyInProgress, IdempotencyKeyReused
from shared.idempotency import Claim, Settled
from shared.jobs import joblog

FIRST = Settled(202, {"Location": "/v1/jobs/job_1"}, '{"é": 1}')
DAY = 24 * 3600.0


def claim(database: Database, key: str = "k", fingerprint: str = "f") -> Claim | Settled:
    return write(database, idempotency.claim, key, fingerprint)


def move_until(database: Database, seconds: float, key: str = "k") -> None:
    """Set `until` to this many seconds from now."""
    change = update(IdempotencyKey).where(IdempotencyKey.key == key).values(until=database_now(seconds))
    write(database, lambda session: session.execute(change.execution_options(synchronize_session=False)))


def keys(database: Database) -> list[str]:
    return write(database, lambda session: sorted(session.scalars(select(IdempotencyKey.key))))


def test_a_settled_answer_comes_back_as_it_was(database: Database) -> None:
    held = claim(database)
    assert isinstance(held, Claim)
    assert write(database, idempotency.settle, held, FIRST)
    assert claim(database) == FIRST
    assert isinstance(claim(database, "another"), Claim)


def test_another_request_with_the_same_key_is_refused_while_it_is_pending_and_when_it_is_settled(
    database: Database,
) -> None:
    held = claim(database)
    for _ in range(2):
        with pytest.raises(IdempotencyKeyReused):
            claim(database, fingerprint="g")
        write(database, idempotency.settle, held, FIRST)


def test_of_many_who_claim_a_key_at_the_same_moment_one_gets_it(database: Database) -> None:
    def try_to(key: str) -> bool:
        try:
            return isinstance(claim(database, key), Claim)
        except IdempotencyInProgress:
            return False

    for i in range(ROUNDS // 3):
        assert sorted(at_once(*[lambda k=f"key {i}": try_to(k)] * 4)) == [False, False, False, True]


def test_a_claim_that_ran_out_is_anybody_s_and_its_holder_settles_nothing(database: Database) -> None:
    first = claim(database)
    move_until(database, -1)
    second = claim(database, fingerprint="g")  # the first request had no effect, so the key may be used for another
    assert isinstance(second, Claim)
    assert not write(database, idempotency.settle, first, FIRST)
    write(database, idempotency.release, first)
    with pytest.raises(IdempotencyInProgress):
        claim(database, fingerprint="g")
    assert write(database, idempotency.settle, second, FIRST)


def test_of_a_holder_that_settles_and_one_that_takes_over_at_the_same_moment_one_wins(database: Database) -> None:
    def take_over(key: str) -> Any:
        try:
            return claim(database, key)
        except IdempotencyInProgress:
            return None

    for i in range(ROUNDS // 3):
        key = f"key {i}"
        held = claim(database, key)
        move_until(database, -1, key)
        settled, taken = at_once(
            lambda h=held: write(database, idempotency.settle, h, FIRST), lambda k=key: take_over(k)
        )
        assert taken == FIRST if settled else isinstance(taken, Claim)


def test_what_is_given_back_is_new_again_and_what_is_settled_is_not_given_back(database: Database) -> None:
    write(database, idempotency.release, claim(database))
    held = claim(database)
    write(database, idempotency.settle, held, FIRST)
    write(database, idempotency.release, held)
    assert claim(database) == FIRST


def test_an_answer_that_was_rolled_back_with_its_transaction_was_never_given(database: Database) -> None:
    held = claim(database)

    def fail(session: Session) -> None:
        assert idempotency.settle(session, held, FIRST)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(database, fail)
    with pytest.raises(IdempotencyInProgress):
        claim(database)


def test_an_answer_is_amended_by_its_holder(database: Database) -> None:
    held = claim(database)
    write(database, idempotency.settle, held, FIRST)
    write(database, idempotency.amend, Claim("k", "somebody else's"), "{}")
    assert claim(database) == FIRST
    write(database, idempotency.amend, held, "{}")
    assert claim(database) == Settled(FIRST.status, FIRST.headers, "{}")


def test_an_answer_is_kept_for_a_day_and_swept_after_it(database: Database) -> None:
    for key in ("young", "old", "under way", "stale", "forgotten"):
        held = claim(database, key)
        if key in ("young", "old"):
            write(database, idempotency.settle, held, FIRST)
    (until,) = write(
        database,
        lambda session: session.scalars(
            select(IdempotencyKey.key).where(
                IdempotencyKey.key == "young",
                IdempotencyKey.until.between(database_now(DAY - 60), database_now(DAY + 60)),
            )
        ).all(),
    )
    assert until == "young"
    move_until(database, -1, "old")
    move_until(database, -1, "stale")  # its request may be slow, and blocks no other
    move_until(database, -DAY - 1, "forgotten")
    with pytest.raises(IdempotencyKeyReused):  # kept until it is swept: a clock that jumps must not repeat a request
        claim(database, "old", "something else")
    move_until(database, -DAY - 1, "old")
    write(database, idempotency.sweep, joblog.now())
    assert keys(database) == ["stale", "under way", "young"]
    move_until(database, -1, "young")
    write(database, idempotency.sweep, joblog.now())
    assert keys(database) == ["stale", "under way"]
