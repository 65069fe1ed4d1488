"""Uploads of one owner that arrive at the same time cannot exceed the owner's limit together, on PostgreSQL, where
transactions run beside each other."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from support.images import npz, pixels, small
from support.people import client_for
from support.waiting import wait_for
from werkzeug.test import TestResponse

from api.changes import audit_log
from api.services import Services
from shared.db.database import Database
from shared.jobs import stored_bytes

LIMIT = 10_000_000
WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('advisory', 'transactionid', 'tuple')")
ONE, OTHER, THIRD = (npz(**small(x=pixels(40, 6, 6, seed=seed))) for seed in range(3))

pytestmark = pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)])


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def upload(app: Flask) -> Callable[..., TestResponse]:
    people = {owner: client_for(app, owner) for owner in ("alice", "bob", "carol")}

    def send(content: bytes, owner: str) -> TestResponse:
        return people[owner].post("/v1/datasets", data={"file": (io.BytesIO(content), "a.npz")})

    return send


class Together:
    """Sends uploads at the same time. Each that has added its bytes and found them within the limit waits before its
    commit until another has done so too, or waits for a lock. `waited`: whether one did."""

    def __init__(self, database: Database, upload: Callable[..., TestResponse], patch: pytest.MonkeyPatch) -> None:
        self.database, self.upload, self.patch, self.waited = database, upload, patch, False
        self._noted, self._note = 0, audit_log.note

    def send(self, *requests: tuple[bytes, str]) -> list[TestResponse]:
        self.patch.setattr(audit_log, "note", self._noting)
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(lambda request: self.upload(*request), requests))

    def _noting(self, *arguments: Any) -> None:
        self._note(*arguments)
        self._noted += 1
        wait_for(self._goes_on, 30, "another upload")

    def _goes_on(self) -> bool:
        with self.database.read() as session:
            waiting = bool(session.scalar(WAITING))
        self.waited |= waiting
        return waiting or self._noted > 1


@pytest.fixture
def together(database: Database, upload: Callable[..., TestResponse], monkeypatch: pytest.MonkeyPatch) -> Together:
    return Together(database, upload, monkeypatch)


def room_for_one_and_a_half(services: Services, size: int) -> None:
    object.__setattr__(services.settings, "max_owner_bytes", LIMIT)
    with services.database.write() as session:
        stored_bytes.add(session, "alice", "artifacts", LIMIT - size * 3 // 2)


def datasets_of(services: Services, owner: str) -> int:
    """Bytes."""
    with services.database.read() as session:
        return stored_bytes.used_by(session, owner)["datasets"]


@pytest.mark.parametrize("known", [(ONE, OTHER), (ONE,), (OTHER,), ()])
def test_two_datasets_do_not_both_take_the_room_for_one(upload, together, services, problem, known) -> None:
    """`known`: those that another owner has uploaded, so that only a reference is added."""
    made = [upload(content, "bob").json["size_bytes"] for content in (THIRD, *known)]
    room_for_one_and_a_half(services, max(made))
    first, second = sorted(together.send((ONE, "alice"), (OTHER, "alice")), key=lambda answer: answer.status_code)
    assert first.status_code == 201, first.text
    problem(second, 409, "owner_storage_full")
    assert datasets_of(services, "alice") == first.json["size_bytes"]


def test_one_dataset_that_is_sent_twice_counts_once(upload, together, services) -> None:
    size = upload(ONE, "bob").json["size_bytes"]
    room_for_one_and_a_half(services, size)
    answers = together.send((ONE, "alice"), (ONE, "alice"))
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert datasets_of(services, "alice") == size


def test_uploads_of_two_owners_do_not_wait_for_each_other(upload, together) -> None:
    for content in (ONE, OTHER):
        upload(content, "carol")
    assert [answer.status_code for answer in together.send((ONE, "alice"), (OTHER, "bob"))] == [201, 201]
    assert not together.waited
