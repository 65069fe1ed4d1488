"""Tokens on both databases: found by their text while they are valid; the text itself is not stored."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from support.people import expire, id_of, revoke, token_for
from support.store import read, write

from shared import tokens
from shared.db.database import Database
from shared.errors import NotFound, TokenExpired, TokenInvalid, TokenRevoked
from shared.jobs.joblog import now
from shared.tokens import TokenInfo


def find(database: Database, text: str) -> TokenInfo:
    with database.look() as connection:
        return tokens.find(connection, text)


def test_a_token_is_found_by_its_text_and_says_whose_it_is(database: Database) -> None:
    texts = [token_for(database, owner, scope) for owner in ("alice", "bob") for scope in tokens.SCOPES]
    assert len(set(texts)) == 6
    found = [find(database, text) for text in texts]
    assert [(token.owner, token.scope) for token in found] == [
        (owner, scope) for owner in ("alice", "bob") for scope in tokens.SCOPES
    ]
    assert [token.id for token in found] == [id_of(text) for text in texts]


def test_the_text_is_random_and_only_the_hash_of_its_secret_is_kept(database: Database) -> None:
    text = token_for(database, "alice")
    prefix, number, secret = text.split("_", 2)
    (row,) = read(database, tokens.list_all)
    assert (prefix, row.id) == ("gq", f"tok_{number}")
    assert len(secret) == 43, "32 bytes, as base64 has them"
    assert row.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert not any(secret in str(value) for value in vars(row).values())


def test_a_secret_with_underscores_is_whole(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens.secrets, "token_urlsafe", lambda _: "_a_-b__")
    assert find(database, token_for(database, "alice")).owner == "alice"


@pytest.mark.parametrize(
    "text", ["", "gq", "gq_", "gq__", "gq_\x00_x", "gq_%_x", "gq_١_x", "\ud800", "gq_a_\ud800", "gq_" + "a" * 10_000]
)
def test_text_that_is_not_a_token_is_an_unknown_token(database: Database, text: str) -> None:
    with pytest.raises(TokenInvalid):
        find(database, text)


def test_a_token_is_good_until_its_time_is_over(database: Database) -> None:
    text = token_for(database, "alice")
    with database.look() as connection:
        assert tokens.is_good(connection, id_of(text))
    expire(database, text)
    with pytest.raises(TokenExpired, match="UTC"):
        find(database, text)
    with database.look() as connection:
        assert not tokens.is_good(connection, id_of(text))
    assert not read(database, tokens.any_good)
    assert not read(database, tokens.name_in_use, "t")


def test_a_revoked_token_is_refused_and_the_others_are_not(database: Database) -> None:
    one, other = token_for(database, "alice", name="one"), token_for(database, "alice", name="other")
    revoke(database, one)
    with pytest.raises(TokenRevoked):
        find(database, one)
    assert find(database, other).owner == "alice"
    assert read(database, tokens.any_good)
    states = {token.name: tokens.state_of(token) for token in read(database, tokens.list_all)}
    assert states == {"one": "revoked", "other": "good"}


def test_a_token_is_revoked_by_its_name_once(database: Database) -> None:
    token_for(database, "alice", name="laptop")
    (first,) = write(database, tokens.revoke, "laptop")
    (again,) = write(database, tokens.revoke, first.id)
    assert again.revoked_at == first.revoked_at
    with pytest.raises(NotFound, match="gradq token list"):
        write(database, tokens.revoke, "lapto")


def test_an_id_revokes_its_token_alone_whatever_others_are_called(database: Database) -> None:
    one = token_for(database, "alice", name="one")
    other = token_for(database, "bob", name=id_of(one))
    assert [token.name for token in write(database, tokens.revoke, id_of(one))] == ["one"]
    assert find(database, other).owner == "bob"


def test_use_is_noted_as_exactly_as_a_minute(database: Database) -> None:
    text = token_for(database, "alice")
    assert find(database, text).stale
    write(database, tokens.note_use, id_of(text))
    assert not find(database, text).stale
    (row,) = read(database, tokens.list_all)
    assert row.last_used_at is not None
    assert abs(now() - row.last_used_at) < timedelta(minutes=1)
