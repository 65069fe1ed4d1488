"""Browsers: the sign-in, its cookie, cross-site requests; and the host names of a service that requires no token."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from support.people import bearer, revoke, token_for

from api.access.auth import COOKIE
from api.access.auth import EXTENSION as AUTH
from api.app import create_app
from api.services import EXTENSION
from shared.config import Settings
from shared.db.database import Database

OURS = ("localhost", "localhost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "a.localhost", "LOCALHOST.")
OTHERS = ("evil.example", "evil.example:8080", "192.0.2.1", "127.0.0.1.evil.example", "localhost.evil", "[::2]", "[")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"allow_anonymous": None})


@pytest.fixture
def database(app: Flask) -> Database:
    found: Database = app.extensions[EXTENSION].database
    return found


@pytest.fixture
def token(database: Database) -> str:
    return token_for(database, "alice")


@pytest.fixture
def loopback(app: Flask, settings: Settings) -> FlaskClient:
    """As on a socket that is reachable from this machine only."""
    app.extensions[AUTH].on_loopback = True
    return app.test_client()


class TestSignIn:
    def test_a_token_becomes_a_cookie_that_opens_what_the_token_opens(self, client, token):
        answer = client.post("/session", json={"token": token})
        assert (answer.status_code, answer.data) == (204, b"")
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith(f"{COOKIE}={token};")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert client.post("/v1/jobs", json={}).json["owner"] == "alice"

    def test_over_https_the_cookie_never_travels_without_it(self, client, token):
        answer = client.post("/session", json={"token": token}, base_url="https://gradq.example")
        assert "Secure" in answer.headers["Set-Cookie"].split("; ")

    @pytest.mark.parametrize(("sent", "secure"), [("https", True), ("https, http", True), ("http", False)])
    def test_so_it_is_behind_a_proxy_that_speaks_tls_on_whatever_host(self, client, token, sent, secure):
        there = {"headers": {"X-Forwarded-Proto": sent}, "environ_base": {"REMOTE_ADDR": "172.18.0.1"}}
        for answer in (client.post("/session", json={"token": token}, **there), client.delete("/session", **there)):
            assert ("Secure" in answer.headers["Set-Cookie"].split("; ")) is secure

    @pytest.mark.parametrize(
        ("wanted", "leads_to"),
        [
            *((path, path) for path in ("/", "/jobs/job_1?x=1", "/a//b")),
            *((path, "/") for path in ("//evil", "/\\evil", "https://evil", "evil", "", "/\t/evil", "javascript:1")),
        ],
    )
    def test_a_form_goes_on_to_a_page_of_ours_alone(self, client, token, wanted, leads_to):
        answer = client.post("/session", data={"token": f" {token}\n", "next": wanted})
        assert (answer.status_code, answer.headers["Location"]) == (303, leads_to)
        assert client.get("/v1/jobs").status_code == 200

    @pytest.mark.parametrize("sent", [{"json": {"token": "gq_x_y"}}, {"data": {"token": "gq_x_y"}}])
    def test_a_wrong_token_is_refused_and_leaves_no_cookie(self, client, problem, sent):
        answer = client.post("/session", **sent)
        problem(answer, 401, "token_invalid")
        assert "Set-Cookie" not in answer.headers

    def test_a_body_that_names_no_token_is_told_so(self, client, problem):
        for sent in ({"json": {}}, {"json": {"token": ""}}, {"data": {"tokn": "x"}}, {"json": {"token": 7}}):
            assert problem(client.post("/session", **sent), 422, "invalid_body")["errors"][0]["pointer"] == "/token"
        assert client.post("/session", data=b"token", content_type="text/plain").status_code == 415

    def test_signing_out_clears_the_cookie(self, client, token):
        client.post("/session", json={"token": token})
        assert client.delete("/session").status_code == 204
        assert client.get("/v1/jobs").status_code == 401

    def test_a_cookie_whose_token_is_revoked_opens_nothing_and_can_be_replaced(self, client, database, token, problem):
        client.post("/session", json={"token": token})
        revoke(database, token)
        problem(client.get("/v1/jobs"), 401, "token_revoked")
        assert client.post("/session", json={"token": token_for(database, "bob")}).status_code == 204
        assert client.get("/v1/whoami").json["owner"] == "bob"

    def test_a_header_comes_before_a_cookie(self, client, database, token, problem):
        client.post("/session", json={"token": token})
        assert client.get("/v1/whoami", headers=bearer(token_for(database, "bob"))).json["owner"] == "bob"
        problem(client.get("/v1/whoami", headers=bearer("gq_x_y")), 401, "token_invalid")

    def test_a_cookie_does_not_excuse_a_page_of_another_site(self, client, token, problem):
        client.post("/session", json={"token": token})
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
            problem(client.post("/v1/jobs", json={}, headers=headers), 403, "forbidden")
            problem(client.post("/session", json={"token": token}, headers=headers), 403, "forbidden")
            problem(client.delete("/session", headers=headers), 403, "forbidden")
        assert client.get("/v1/jobs").json["data"] == []


class TestWithoutATokenOnLoopback:
    def test_no_token_is_required(self, loopback):
        assert loopback.post("/v1/jobs", json={}).json["owner"] is None

    def test_a_token_that_is_sent_counts_and_a_wrong_one_is_refused(self, loopback, token, problem):
        assert loopback.post("/v1/jobs", json={}, headers=bearer(token)).json["owner"] == "alice"
        problem(loopback.get("/v1/jobs", headers=bearer("gq_x_y")), 401, "token_invalid")

    def test_the_cookie_of_another_service_on_this_machine_is_ignored(self, loopback):
        loopback.set_cookie(COOKIE, "gq_x_y")
        assert loopback.get("/v1/whoami").json["owner"] is None

    @pytest.mark.parametrize(
        "host",
        ["localhost", "localhost:8080", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "a.localhost", "LOCALHOST."],
    )
    def test_loopback_names_are_its_own(self, loopback, host):
        assert loopback.get("/v1/jobs", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8080", "192.0.2.1", "127.0.0.1.evil.example", "localhost.evil", "[::2]", "["],
    )
    def test_other_names_are_refused_against_dns_rebinding(self, loopback, problem, host):
        assert loopback.get("/v1/jobs", headers={"Host": host}).status_code in (400, 421)
        assert loopback.post("/v1/jobs", json={}, headers={"Host": host}).status_code in (400, 421)
        if host == "evil.example":
            body = problem(loopback.get("/v1/jobs", headers={"Host": host}), 421, "unknown_host")
            assert "GRADQ_ALLOWED_HOSTS" in body["detail"]
        assert loopback.get("/v1/jobs").json["data"] == []

    def test_with_a_token_the_name_does_not_matter(self, loopback, token):
        headers = {"Host": "gradq.example", **bearer(token)}
        assert loopback.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("hosts", "anonymous", "open_to", "closed_to"),
    [
        ("gradq.example, b.example", None, ["gradq.example", "B.example:80", "localhost"], ["evil.example"]),
        ("*", None, ["evil.example"], []),
        ("", True, ["evil.example"], []),  # the operator allows anonymous access from anywhere
        ("gradq.example", True, ["gradq.example"], ["evil.example"]),
    ],
)
def test_the_host_names_of_a_service_that_requires_no_token(
    tmp_path: Path, hosts, anonymous, open_to, closed_to
) -> None:
    app = create_app(Settings(state_dir=tmp_path, allow_anonymous=anonymous, allowed_hosts=hosts))
    app.extensions[AUTH].on_loopback = True
    app.extensions[EXTENSION].database.migrate()
    answered = {host: app.test_client().get("/v1/jobs", headers={"Host": host}) for host in (*open_to, *closed_to)}
    assert {host: answer.status_code for host, answer in answered.items()} == {
        **dict.fromkeys(open_to, 200),
        **dict.fromkeys(closed_to, 421),
    }


@pytest.mark.parametrize(
    ("setting", "on_loopback", "status"),
    [(None, True, 200), (None, False, 401), (True, False, 200), (False, True, 401)],
)
def test_when_a_token_is_required(tmp_path: Path, setting, on_loopback: bool, status: int) -> None:
    app = create_app(Settings(state_dir=tmp_path, allow_anonymous=setting))
    app.extensions[AUTH].on_loopback = on_loopback
    assert app.test_client().get("/v1/presets").status_code == status
