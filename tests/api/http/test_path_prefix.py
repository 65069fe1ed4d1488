"""The service below a path of a proxy: each address that leaves it has the prefix, those that it gets do not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.app import create_app
from shared.config import Settings
from shared.errors import ConfigurationError

HTML = {"Accept": "text/html"}
HERE = {"X-Forwarded-Prefix": "/gradq"}
AT_HOST = {"REMOTE_ADDR": "172.18.0.1"}  # a client that is not this machine
ADDRESSES = re.compile(r"""(?:href|src|action|content)="(/[^"]*)\"""")
PAGES = ("/", "/submit", "/compare", "/draw", "/learn", "/system", "/nothing-here", "/docs")


@pytest.fixture
def job(hands, results: dict[str, Any]) -> str:
    """A succeeded job with a file, so that its page has every kind of address."""
    job_id = hands.submit(epochs=1)["id"]
    lease = hands.start()
    hands.finish(lease, result=next(iter(results.values())), files=[hands.store(lease, "confusion_matrix.json", b"{}")])
    return str(job_id)


def leaving(text: str) -> set[str]:
    return set(ADDRESSES.findall(text))


class TestForwarded:
    @pytest.mark.parametrize("path", PAGES)
    def test_every_address_of_a_page_has_the_prefix(self, client: FlaskClient, path: str) -> None:
        found = leaving(client.get(path, headers={**HTML, **HERE}).text)
        assert found
        assert {address for address in found if not address.startswith("/gradq/")} == set()

    def test_so_have_those_of_a_job_in_its_page_in_the_list_and_in_its_stream(self, client, job: str) -> None:
        streamed = client.get("/", headers={"Accept": "text/event-stream", **HERE})
        row = next(
            part for part in streamed.response if "event: row" in (part if isinstance(part, str) else part.decode())
        )
        streamed.close()
        texts = [client.get(path, headers={**HTML, **HERE}).text for path in (f"/jobs/{job}", "/")]
        row = row if isinstance(row, str) else row.decode()
        for text in (*texts, row.replace('\\"', '"')):
            found = leaving(text)
            assert f"/gradq/jobs/{job}" in found or f"/gradq/draw?job={job}" in found
            assert {address for address in found if not address.startswith("/gradq/")} == set()

    def test_every_file_that_a_page_names_is_there_once_the_proxy_has_stripped_the_prefix(self, client) -> None:
        for path in ("/compare", "/docs"):
            for address in leaving(client.get(path, headers={**HTML, **HERE}).text):
                assert client.get(address.removeprefix("/gradq"), headers={**HTML, **HERE}).status_code == 200, address

    def test_location_and_link_have_it_and_a_repeated_request_gets_it_anew(self, client) -> None:
        key = {"Idempotency-Key": "once"}
        first = client.post("/v1/jobs", json={}, headers={**HERE, **key})
        assert first.headers["Location"] == f"/gradq/v1/jobs/{first.json['id']}"
        client.post("/v1/jobs", json={}, headers=HERE)
        again = client.post("/v1/jobs", json={}, headers=key)
        assert again.headers["Location"] == f"/v1/jobs/{first.json['id']}"  # stored without the prefix of a proxy
        listed = client.get("/v1/jobs?limit=1", headers=HERE)
        assert listed.headers["Link"].startswith("</gradq/v1/jobs?limit=1&after=job_")
        assert listed.json["data"][0]["links"]["self"].startswith("/v1/jobs/")  # below the address of the service

    def test_redirects_stay_below_it(self, client) -> None:
        for path, to in (("/jobs", "/gradq/"), ("/?q=abc", "/gradq/?name=*abc*")):
            assert client.get(path, headers=HERE).headers["Location"] == to

    def test_cookies_are_those_of_this_service_alone(self, client) -> None:
        gone = client.delete("/session", headers=HERE)
        assert "Path=/gradq;" in gone.headers["Set-Cookie"]
        assert "Path=/;" in client.delete("/session").headers["Set-Cookie"] + ";"

    def test_the_document_names_it_as_the_address_of_the_calls(self, client) -> None:
        assert client.get("/v1/openapi.json", headers=HERE).json["servers"][0]["url"] == "/gradq"
        assert client.get("/v1/openapi.json").json["servers"][0]["url"] == "/"
        assert '"/gradq/v1/openapi.json"' in client.get("/docs/start.js", headers=HERE).text

    def test_the_page_to_sign_in_leads_back_below_it(self, settings: Settings, app: Flask) -> None:
        closed = create_app(settings.model_copy(update={"allow_anonymous": False})).test_client()
        page = closed.get("/compare?job=a", headers={**HTML, **HERE})
        assert (page.status_code, leaving(page.text)) == (401, {"/gradq/session"})
        assert 'value="/compare?job=a"' in page.text  # without it: the redirect adds it

    @pytest.mark.parametrize(
        ("given", "root"),
        [
            ("/gradq/", "/gradq"),
            ("/a/b-c_d.e~1", "/a/b-c_d.e~1"),
            ("/outer, /inner", "/outer/inner"),
            ("/", ""),
            ("gradq", ""),
            ("//evil.example", ""),
            ("https://evil.example", ""),
            ("/a/../b", ""),
            ("/a b", ""),
            ('/"><script>', ""),
            ("/" + "a" * 300, ""),
        ],
    )
    def test_only_a_path_is_a_prefix(self, client, given: str, root: str) -> None:
        page = client.get("/system", headers={**HTML, "X-Forwarded-Prefix": given})
        assert f'<html lang="en" data-root="{root}"' in page.text

    def test_the_header_of_another_machine_is_ignored(self, client) -> None:
        assert 'data-root=""' in client.get("/system", headers={**HTML, **HERE}, environ_base=AT_HOST).text


class TestSetting:
    @pytest.fixture
    def below(self, settings: Settings, app: Flask) -> FlaskClient:
        return create_app(settings.model_copy(update={"path_prefix": "/tools/gradq"})).test_client()

    @pytest.mark.parametrize("sent", ["/v1/jobs", "/tools/gradq/v1/jobs"])
    def test_it_holds_whether_the_proxy_strips_it_or_not_and_from_any_machine(self, below, sent: str) -> None:
        answer = below.post(sent, json={}, environ_base=AT_HOST)
        assert answer.headers["Location"] == f"/tools/gradq/v1/jobs/{answer.json['id']}"

    @pytest.mark.parametrize("path", ["/tools/gradq/", "/tools/gradq", "/"])
    def test_the_root_is_the_list_of_jobs(self, below, path: str) -> None:
        page = below.get(path, headers=HTML)
        assert page.status_code == 200
        assert "/tools/gradq/submit" in leaving(page.text)

    def test_paths_that_only_begin_alike_are_not_stripped(self, below) -> None:
        assert below.get("/tools/gradqx").status_code == 404

    def test_it_replaces_the_header(self, below) -> None:
        assert 'data-root="/tools/gradq"' in below.get("/system", headers={**HTML, **HERE}).text

    @pytest.mark.parametrize("prefix", ["/v1", "/jobs/", "/docs/a", "/session", "/static"])
    def test_one_that_begins_like_an_address_of_the_service_is_refused(self, settings: Settings, prefix: str) -> None:
        with pytest.raises(ConfigurationError, match="GRADQ_PATH_PREFIX: /.* begins like an address of the service"):
            create_app(settings.model_copy(update={"path_prefix": prefix}))

    @pytest.mark.parametrize("text", ["gradq", "//host", "/a//b", "/..", "http://host/gradq", "/a?b", "/ä"])
    def test_what_is_no_path_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("GRADQ_PATH_PREFIX", text)
        with pytest.raises(ConfigurationError, match="GRADQ_PATH_PREFIX: must be a path like /gradq"):
            Settings.from_env()
