"""Responses stored for Idempotency-Keys have a limit per owner and day, before anything is changed."""

from __future__ import annotations

import pytest

from api.changes.idempotency import EXTENSION
from api.changes.kept_responses import HOUR, LEAST_BYTES, MOST_BYTES, KeptResponses
from shared.errors import TooManyKeptResponses


def test_each_owner_has_a_limit_of_their_own_and_it_is_free_again_after_a_day() -> None:
    now = [0.5 * HOUR]
    kept = KeptResponses(None, lambda: now[0])
    kept.limit = 100
    kept.check("anna")
    kept.add("anna", 60)
    now[0] += HOUR
    kept.add("anna", 40)
    kept.check("berta")
    with pytest.raises(TooManyKeptResponses):
        kept.check("anna")
    now[0] = 23.5 * HOUR
    with pytest.raises(TooManyKeptResponses):
        kept.check("anna")
    now[0] = 24.5 * HOUR
    kept.check("anna")  # the first 60 are a day old
    kept.add("anna", 60)
    with pytest.raises(TooManyKeptResponses):
        kept.check("anna")


def test_the_limit_follows_what_an_owner_may_store() -> None:
    assert [KeptResponses(size).limit for size in (None, 1 << 60, 1 << 31, 1)] == [
        *(MOST_BYTES, MOST_BYTES, 1 << 28, LEAST_BYTES)
    ]


def test_beyond_it_a_request_with_a_new_key_changes_nothing_and_others_go_on(app, client, problem) -> None:
    first = client.post("/v1/jobs", json={}, headers={"Idempotency-Key": "first"})
    assert first.status_code == 202
    app.extensions[EXTENSION].limit = len(first.data)
    answer = client.post("/v1/jobs", json={}, headers={"Idempotency-Key": "second"})
    problem(answer, 429, "too_many_kept_responses")
    assert int(answer.headers["Retry-After"]) == 3600
    assert len(client.get("/v1/jobs").json["data"]) == 1
    again = client.post("/v1/jobs", json={}, headers={"Idempotency-Key": "first"})
    assert (again.status_code, again.json["id"]) == (202, first.json["id"]), "a stored response is replayed"
    assert client.post("/v1/jobs", json={}).status_code == 202, "without a key"
    app.extensions[EXTENSION].limit = MOST_BYTES
    assert client.post("/v1/jobs", json={}, headers={"Idempotency-Key": "second"}).status_code == 202, "it was released"
