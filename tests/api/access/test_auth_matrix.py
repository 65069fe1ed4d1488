"""Every route and method of the app, as it lists them itself, against everybody who may not: a new route is in here by
itself."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from limits import RateLimitItemPerMinute
from pydantic import SecretStr
from support.images import npz, small
from support.people import bearer, client_for, expire, revoke, token_for
from werkzeug.test import TestResponse

from api.access import auth_throttle
from api.app import create_app
from api.services import EXTENSION
from shared.config import Settings
from shared.db.database import Database

ALLOWED = RateLimitItemPerMinute(1_000_000)
ADMINS = {"/v1/audit"}
OPEN = {("GET", "/healthz"), ("HEAD", "/healthz"), ("POST", "/session"), ("DELETE", "/session")}
NOWHERE = "job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70"
ADMIN_TOKEN = "a-token-that-lies-in-no-table-" + "x" * 16


class Call(NamedTuple):
    method: str
    rule: str
    path: str
    scope: str | None
    of_an_owner: bool


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    redis = SecretStr(f"redis+socket://{folder}/nobody.sock")
    settings = Settings(
        state_dir=folder,
        redis_url=redis,
        admin_token=SecretStr(ADMIN_TOKEN),
        rate_reads="none",
        rate_changes="none",
    )
    app = create_app(settings)
    database: Database = app.extensions[EXTENSION].database
    database.migrate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth_throttle, "ALLOWED", ALLOWED)  # all of these come from one address
        yield app
    database.close()


@pytest.fixture(scope="module")
def database(app: Flask) -> Database:
    found: Database = app.extensions[EXTENSION].database
    return found


@pytest.fixture(scope="module")
def things(app: Flask) -> dict[str, str]:
    """What is alice's."""
    alice = client_for(app, "alice")
    job = alice.post("/v1/jobs", json={}).json["id"]
    dataset = alice.post("/v1/datasets", data={"file": (io.BytesIO(npz(**small())), "a.npz")})
    assert dataset.status_code == 201, dataset.text
    return {"job_id": job, "dataset_id": dataset.json["id"], "name": "start.js", "version": "x"}


@pytest.fixture(scope="module")
def calls(app: Flask, things: dict[str, str]) -> list[Call]:
    """Deletions last: whoever is let through finds the rest."""
    found = []
    for rule in app.url_map.iter_rules():
        path = rule.rule
        for converter in ("", "job:", "path:"):
            for name, value in things.items():
                path = path.replace(f"<{converter}{name}>", value)
        assert "<" not in path, f"what to ask of {rule.rule}?"
        scope = app.view_functions[rule.endpoint].scope
        owned = bool({"job_id", "dataset_id"} & rule.arguments)
        for method in sorted(rule.methods):
            found.append(Call(method, rule.rule, path, "read" if method == "OPTIONS" else scope, owned))
    found.append(Call("GET", "/nothing", "/nothing", "read", False))
    assert len({call.rule for call in found}) > 30
    return sorted(found, key=lambda call: call.method == "DELETE")


def send(app: Flask, call: Call, **headers: str) -> TestResponse:
    return app.test_client().open(call.path, method=call.method, headers=headers)


def guarded(calls: list[Call]) -> list[Call]:
    return [call for call in calls if (call.method, call.rule) not in OPEN]


def answers(app: Flask, calls: list[Call], token: str) -> dict[str, tuple[int, str]]:
    """Status and code by call; HEAD has no body, and so no code."""
    found = {}
    for call in calls:
        answer = send(app, call, **bearer(token))
        body = answer.get_json(silent=True) if call.method != "HEAD" else None
        found[f"{call.method} {call.rule}"] = (answer.status_code, (body or {}).get("code", ""))
    return found


def expected(calls: list[Call], status: int, code: str) -> dict[str, tuple[int, str]]:
    return {f"{c.method} {c.rule}": (status, "" if c.method == "HEAD" else code) for c in calls}


def test_what_is_open_to_all_is_the_health_check_and_the_sign_in(calls: list[Call]) -> None:
    asked_of_nobody = {(call.method, call.rule) for call in calls if call.scope is None}
    assert asked_of_nobody == OPEN


def test_reading_takes_read_and_changing_takes_submit(calls: list[Call]) -> None:
    for call in guarded(calls):
        reads = call.method in ("GET", "HEAD", "OPTIONS")
        usual = "read" if reads else "submit"
        assert call.scope == ("admin" if call.rule in ADMINS and call.method != "OPTIONS" else usual), call


def test_without_a_token_nothing_answers(app: Flask, calls: list[Call]) -> None:
    for call in guarded(calls):
        answer = send(app, call)
        assert answer.status_code == 401, call
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="gradq"'
        assert answer.content_type == "application/problem+json"
        if call.method != "HEAD":
            assert answer.json["code"] == "token_missing", call
    assert app.test_client().get("/healthz").json == {"status": "ok"}


def test_a_token_that_is_none_is_refused(app: Flask, calls: list[Call], database: Database) -> None:
    good = token_for(database, "alice", "admin")
    prefix, number, secret = good.split("_", 2)
    for wrong in (
        *("x", "gq_", "gq__", f"gq_{number}", f"gq_{number}_", f"gq_{'0' * 32}_{secret}", f"gq_{number}_{secret[:-1]}"),
        *(f"gq_{number}_{secret}x", f"gk_{number}_{secret}", f"{good} {good}", "gq_\xff_\xff", ADMIN_TOKEN[:-1]),
        *(f"tok_{number}", "' OR 1=1 --", f"gq_{number.upper()}_{secret}", "gq_" + "9" * 5000 + "_x"),
    ):
        answer = app.test_client().get("/v1/jobs", headers=bearer(wrong))
        assert (answer.status_code, answer.json["code"]) == (401, "token_invalid"), wrong
    for header in ("", "Bearer", "Bearer ", "Basic YTpi", good, f"Token {good}"):
        answer = app.test_client().get("/v1/jobs", headers={"Authorization": header})
        assert (answer.status_code, answer.json["code"]) == (401, "token_invalid"), header
    chosen = guarded(calls)
    assert answers(app, chosen, f"{prefix}_{number}_{secret[::-1]}") == expected(chosen, 401, "token_invalid")


def test_who_guesses_learns_nothing_from_the_answer(app: Flask, database: Database) -> None:
    _, number, secret = token_for(database, "alice").split("_", 2)

    def told(token: str) -> tuple[int, dict[str, Any], str]:
        answer = app.test_client().get("/v1/jobs", headers=bearer(token))
        return answer.status_code, {**answer.json, "request_id": ""}, answer.headers["WWW-Authenticate"]

    unknown, wrong_secret = told(f"gq_{'0' * 32}_{secret}"), told(f"gq_{number}_{secret[::-1]}")
    assert unknown == wrong_secret
    revoked = token_for(database, "alice")
    revoke(database, revoked)
    assert told(f"{revoked[:-1]}{'a' if revoked[-1] != 'a' else 'b'}") == unknown


@pytest.mark.parametrize(("how", "code"), [(expire, "token_expired"), (revoke, "token_revoked")])
def test_a_token_whose_time_is_over_is_refused(app: Flask, calls: list[Call], database: Database, how, code) -> None:
    token = token_for(database, "alice", "admin")
    assert app.test_client().get("/v1/jobs", headers=bearer(token)).status_code == 200
    how(database, token)
    chosen = guarded(calls)
    assert answers(app, chosen, token) == expected(chosen, 401, code)


def test_a_scope_that_is_too_small_is_refused_and_the_right_one_named(
    app: Flask, calls: list[Call], database: Database
) -> None:
    token = token_for(database, "alice", "read")
    chosen = [call for call in guarded(calls) if call.scope != "read"]
    assert len(chosen) >= 13
    for call in chosen:
        answer = send(app, call, **bearer(token))
        assert answer.status_code == 403, call
        if call.method != "HEAD":  # which has no body
            assert (answer.json["code"], answer.json["scope"]) == ("insufficient_scope", call.scope), call
        assert f'scope="{call.scope}"' in answer.headers["WWW-Authenticate"]


def test_what_is_anothers_is_not_there(app: Flask, calls: list[Call], database: Database, things) -> None:
    """Word for word as what is not there at all."""
    token = token_for(database, "bob")
    chosen = [call for call in guarded(calls) if call.of_an_owner and call.method != "OPTIONS"]
    assert len(chosen) >= 20
    ours = {things["job_id"]: NOWHERE, things["dataset_id"]: f"ds_{'0' * 32}"}
    for call in chosen:
        answer = send(app, call, **bearer(token))
        assert answer.status_code == 404, call
        path = call.path
        for there, nowhere in ours.items():
            path = path.replace(there, nowhere)
        other = send(app, call._replace(path=path), **bearer(token))
        told, expected_text = answer.text, other.text
        for there, nowhere in ours.items():
            told = told.replace(there, nowhere)
        told = told.replace(answer.headers["X-Request-Id"], "")
        assert told == expected_text.replace(other.headers["X-Request-Id"], ""), call


@pytest.mark.parametrize("who", ["owner", "admin", "the service's own"])
def test_the_right_one_is_let_through(app: Flask, calls: list[Call], database: Database, who: str) -> None:
    """It may lack a body or name no file, and it may be too late to do it twice; but nobody says that he may not."""
    token = {
        "owner": lambda: token_for(database, "alice", "submit"),
        "admin": lambda: token_for(database, "carol", "admin"),
        "the service's own": lambda: ADMIN_TOKEN,
    }[who]()
    for call in guarded(calls):
        if call.method == "DELETE" or call.rule in ("/nothing", "/static/<version>/<path:name>"):
            continue
        if who == "owner" and call.scope == "admin":
            continue
        answer = send(app, call, **bearer(token))
        assert answer.status_code < 500, (call, answer.text)
        assert answer.status_code not in (401, 403), (call, answer.text)
        missing = answer.status_code == 404 and "there is no job" not in answer.text and "artifact" in call.rule
        assert missing or answer.status_code != 404, (call, answer.text)


def test_a_read_token_reads_all_that_is_its_owners(app: Flask, calls: list[Call], database: Database) -> None:
    token = token_for(database, "alice", "read")
    for call in guarded(calls):
        if call.scope == "read" and call.rule not in ("/nothing", "/static/<version>/<path:name>"):
            answer = send(app, call, **bearer(token))
            assert answer.status_code in (200, 204, 302, 304, 404), (call, answer.text)
            assert answer.status_code != 404 or "artifact" in call.rule, (call, answer.text)


def test_a_route_that_names_no_scope_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.routes import presets

    monkeypatch.delattr(presets.index, "scope")
    with pytest.raises(AssertionError, match="/v1/presets names no scope"):
        create_app(Settings(state_dir=tmp_path))


def test_the_document_says_what_each_call_takes(app: Flask, calls: list[Call], database: Database) -> None:
    document = app.test_client().get("/v1/openapi.json", headers=bearer(token_for(database, "alice"))).json
    assert document["components"]["securitySchemes"].keys() == {"bearer", "cookie"}
    for call in calls:
        operation = document["paths"].get(call.rule.replace("<job:", "<").replace("<", "{").replace(">", "}"), {})
        if (described := operation.get(call.method.lower())) is None:
            continue
        scopes = [scope for way in described["security"] for scope in way.values()]
        assert scopes == ([[call.scope]] * 2 if call.scope else []), call
        assert (call.scope is None) == ("401" not in described["responses"])
