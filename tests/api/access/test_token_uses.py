"""What the API remembers of tokens in memory, so that a database that takes no writes delays no request that reads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import make_url, select, text

from api.access import token_uses
from api.access.auth import EXTENSION as AUTH
from api.access.token_uses import RecentTokens, TokenUses
from api.services import Services
from shared import tokens
from shared.db.database import Database
from shared.db.tables import Token
from shared.errors import DatabaseAway


@pytest.fixture
def client(app: Flask, services: Services) -> FlaskClient:
    """A client with a token of the scope `read`, which has never been used."""
    with services.database.write() as session:
        _, secret = tokens.create(session, "prometheus", "ops", "read", None)
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return client


@contextmanager
def write_lock_held(database: Database) -> Iterator[None]:
    """Another process is in a write transaction."""
    with closing(sqlite3.connect(str(make_url(database.url).database))) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture
def waits(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long each write transaction may wait for other writers."""
    waits: list[float | None] = []
    real: Callable[..., AbstractContextManager[Any]] = services.database.write

    def write(wait_seconds: float | None = None) -> AbstractContextManager[Any]:
        waits.append(wait_seconds)
        return real(wait_seconds)

    monkeypatch.setattr(services.database, "write", write)
    return waits


READS = ("/v1/jobs", "/v1/whoami", "/v1/datasets", "/v1/workers", "/metrics", "/v1/queues", "/")


def test_while_the_write_lock_is_held_a_token_s_use_is_tried_once_a_minute_and_not_waited_for(
    client: FlaskClient, services: Services, waits: list[float | None]
) -> None:
    with write_lock_held(services.database):
        assert [client.get(path).status_code for path in READS] == [200] * len(READS)
        assert [client.head(path).status_code for path in READS] == [200] * len(READS)
    assert waits == [0.1]
    client.application.extensions[AUTH].uses = TokenUses(60)  # as if a minute had passed
    assert client.get("/v1/jobs").status_code == 200
    assert client.get("/v1/jobs").status_code == 200
    assert waits == [0.1, 0.1]
    with services.database.read() as session:
        assert session.scalars(select(Token.last_used_at)).one() is not None


def test_a_refused_read_waits_a_second_for_its_audit_entry_and_no_longer(
    client: FlaskClient, services: Services, waits: list[float | None]
) -> None:
    client.get("/v1/jobs")
    waits.clear()
    with write_lock_held(services.database):
        assert client.get("/v1/audit").status_code == 403
    assert waits == [1.0]


def test_a_short_wait_ends_soon_and_the_next_transaction_of_the_connection_waits_as_ever(services: Services) -> None:
    began = time.monotonic()
    with (
        write_lock_held(services.database),
        pytest.raises(DatabaseAway, match="locked"),
        services.database.write(0.05) as session,
    ):
        session.execute(text("DELETE FROM jobs"))
    with services.database.write() as holder:  # another thread of this process
        holder.execute(text("DELETE FROM jobs"))
        with pytest.raises(DatabaseAway, match="other threads"), services.database.write(0.05):
            pass
    assert time.monotonic() - began < 5, "the usual wait is 10 s"
    with services.database.read() as session:
        assert session.scalar(text("PRAGMA busy_timeout")) == 10_000


@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_short_wait_is_one_on_postgresql_too(database: Database) -> None:
    with database.write() as session:
        token, _ = tokens.create(session, "prometheus", "ops", "read", None)
    began = time.monotonic()
    with database.write() as holder:
        tokens.note_use(holder, token.id)
        with pytest.raises(DatabaseAway, match="lock timeout"), database.write(0.05) as session:
            tokens.note_use(session, token.id)
    assert time.monotonic() - began < 5
    with database.write() as session:
        assert session.scalar(text("SHOW lock_timeout")) == "8s"


def test_the_memory_is_bounded_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_uses, "MOST_TOKENS", 3)
    uses, recent = TokenUses(60), RecentTokens[str]()
    for number in range(5):
        assert uses.is_due(f"tok_{number}")
        recent.remember(f"gq_{number}_secret", f"owner {number}")
    assert [uses.is_due(f"tok_{number}") for number in (4, 3, 2)] == [False] * 3
    assert [recent.find(f"gq_{number}_secret") for number in range(5)] == [None, None, "owner 2", "owner 3", "owner 4"]
    assert "secret" not in str(vars(recent._callers))
    assert uses.is_due("tok_0")
