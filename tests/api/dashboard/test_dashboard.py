"""The dashboard without a browser: policies, error pages, the list's query string, its stream, number formats."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask

from api.app import create_app
from api.connections.places import Places
from api.dashboard import words
from api.dashboard.sign_in import path_of_ours, sign_in_page
from api.waiting.long_polling import EXTENSION as HELD
from shared.config import Settings
from shared.db.tables import Job

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
STREAM = {"Accept": "text/event-stream"}
PAGES = ("/", "/submit", "/compare", "/draw", "/learn", "/system")


class Tags(HTMLParser):
    """All start tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def rows(html: str) -> list[str]:
    return [str(attributes["id"]) for tag, attributes in Tags(html).found if tag == "tr" and "id" in attributes]


class TestPages:
    @pytest.mark.parametrize("path", PAGES)
    def test_pages_have_no_inline_scripts_and_no_foreign_resources(self, client, path):
        answer = client.get(path, headers=HTML)
        assert (answer.status_code, answer.mimetype) == (200, "text/html")
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        for tag, attributes in Tags(answer.text).found:
            assert not {name for name in attributes if name.startswith("on") or name == "style"}, tag
            assert tag != "style"
            assert tag != "script" or attributes["src"]
            for name in ("src", "href", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "#")), attributes

    def test_every_file_that_a_page_names_is_there(self, client):
        for path in PAGES:
            for _, attributes in Tags(client.get(path, headers=HTML).text).found:
                for name in ("src", "href", "content"):
                    if (attributes.get(name) or "").startswith("/static/"):
                        assert client.get(attributes[name]).headers["Cache-Control"].endswith("immutable")

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [(HTML["Accept"], "text/html"), ("*/*", "application/problem+json"), ("", "application/problem+json")],
    )
    def test_an_error_is_a_page_for_browsers_alone(self, client, accept, kind):
        answer = client.get("/jobs/job_0", headers={"Accept": accept})
        assert (answer.status_code, answer.mimetype) == (404, kind)
        assert "job job_0 not found" in answer.text

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/jobs/job_0/metrics", 404),
            ("GET", "/submit/", 404),
            ("GET", "/v1/nothing", 404),
            ("GET", "/v1/", 404),
            ("GET", "/System", 404),
            ("POST", "/system", 405),
            ("GET", "/session", 405),
        ],
    )
    def test_a_wrong_address_is_a_page_for_browsers_and_a_problem_for_programs(self, client, method, path, status):
        answer = client.open(path, method=method, headers=HTML)
        assert (answer.status_code, answer.mimetype) == (status, "text/html")
        assert ("Allow" in answer.headers) == (status == 405)
        assert path in answer.text
        assert ("a", "/") in [(tag, attributes.get("href")) for tag, attributes in Tags(answer.text).found]
        assert client.open(path, method=method).mimetype == "application/problem+json"

    def test_an_unreachable_database_gives_a_page_with_retry_after(self, tmp_path):
        (tmp_path / "gradq.db").mkdir()
        answer = create_app(Settings(state_dir=tmp_path, allow_anonymous=True)).test_client().get("/", headers=HTML)
        assert (answer.status_code, answer.mimetype) == (503, "text/html")
        assert int(answer.headers["Retry-After"]) > 0
        assert "Content-Security-Policy" in answer.headers


class TestSignIn:
    def test_the_page_needs_nothing_else(self, app: Flask):
        with app.test_request_context("/x"):
            answer = sign_in_page("/jobs/job_0?a=1&b=2", 'no "token" <b>')
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="gradq"')
        found = Tags(answer.get_data(as_text=True)).found
        assert not {"script", "img", "link"} & {tag for tag, attributes in found if attributes.get("rel") != "icon"}
        assert {"name": "next", "type": "hidden", "value": "/jobs/job_0?a=1&b=2"} in [a for _, a in found]
        assert "no &#34;token&#34; &lt;b&gt;" in answer.get_data(as_text=True)
        assert re.search(r"style-src 'sha256-[\w+/]{43}='", answer.headers["Content-Security-Policy"])
        assert "unsafe" not in answer.headers["Content-Security-Policy"]

    @pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\nb"])
    def test_it_does_not_redirect_to_another_host(self, path):
        assert path_of_ours(path) == "/"


class TestViews:
    @pytest.mark.parametrize(
        ("typed", "address"),
        [
            ("mnist", "/?name=*mnist*"),
            ("  two words ", "/?name=*two+words*"),
            ("mnist-*", "/?name=mnist-*"),
            ("team=vision", "/?label.team=vision"),
            ("team=vision mnist", "/?label.team=vision&name=*mnist*"),
            ("=x y=", "/?name=*%3Dx+y%3D*"),
            ("", "/"),
        ],
    )
    def test_the_search_text_becomes_a_query_of_the_list(self, client, typed, address):
        answer = client.get("/", query_string={"q": typed}, headers=HTML)
        assert (answer.status_code, answer.headers["Location"]) == (302, address)

    def test_a_search_keeps_the_other_filters_and_starts_on_the_first_page(self, client):
        answer = client.get("/?status=failed&name=&after=job_0&q=x", headers=HTML)
        assert answer.headers["Location"] == "/?status=failed&name=*x*"

    def test_the_page_accepts_every_filter_of_the_api(self, client, hands):
        hands.submit(name="a", labels={"team": "vision"})
        there = hands.submit(name="b", labels={"team": "vision"})
        hands.submit(name="b", labels={"team": "audio"})
        query = "label.team=vision&name=B*&status=queued&created_after=2020-01-01T00:00:00Z&limit=5"
        assert [job["id"] for job in client.get(f"/v1/jobs?{query}").json["data"]] == [there["id"]]
        assert rows(client.get(f"/?{query}", headers=HTML).text) == [there["id"]]

    @pytest.mark.parametrize(("epochs", "text"), [(1, "1 epoch"), (2, "2 epochs")])
    def test_one_epoch_is_singular(self, client, hands, services, epochs, text):
        job = hands.submit(epochs=epochs)
        progress = {"epoch": epochs, "epochs": epochs, "step": 9, "total_steps": 9, "examples_per_second": 1.0}
        with services.database.write() as session:
            row = session.get_one(Job, job["id"])
            row.progress, row.state, row.finished_at = progress, "succeeded", row.created_at
        assert f">{text}<" in client.get("/", headers=HTML).text

    def test_an_invalid_query_is_explained_on_the_page(self, client):
        answer = client.get("/?status=lost&limit=x", headers=HTML)
        assert answer.status_code == 422
        assert "<code>status</code>" in answer.text
        assert "<code>limit</code>" in answer.text

    def test_pages_have_neither_gaps_nor_duplicates(self, client, hands):
        jobs = [hands.submit()["id"] for _ in range(5)]
        seen, address = [], "/?limit=2"
        while address:
            page = client.get(address, headers=HTML).text
            seen += rows(page)
            older = [attributes["href"] for _, attributes in Tags(page).found if attributes.get("rel") == "next"]
            address = older[0] if older else ""
        assert seen == jobs[::-1]


def events(text: str) -> list[tuple[str, Any]]:
    return [(kind, json.loads(data)) for kind, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)]


class TestStream:
    """One round at a time: the generator pauses between two chunks."""

    def test_it_sends_the_view_and_then_only_changes(self, client, hands):
        first = hands.submit(name="first")
        answer = client.get("/?status=queued", headers=STREAM, buffered=False)
        assert answer.mimetype == "text/event-stream"
        pieces = iter(answer.iter_encoded())
        assert next(pieces) == b"retry: 1000\n\n"
        (row, view) = events(next(pieces).decode())
        assert row[0] == "row"
        assert row[1]["id"] == first["id"]
        assert rows(row[1]["html"]) == [first["id"]]
        assert view == ("view", {"ids": [first["id"]], "counts": {"queued": 1}})
        second = hands.submit(name="second")
        (row, view) = events(next(pieces).decode())  # the first is not sent again
        assert (row[1]["id"], view[1]["ids"]) == (second["id"], [second["id"], first["id"]])
        client.post(f"/v1/jobs/{first['id']}/cancel")
        *_, view = events(next(pieces).decode())
        assert view == ("view", {"ids": [second["id"]], "counts": {"queued": 1, "cancelled": 1}})
        answer.close()

    def test_without_a_free_place_it_is_refused_with_retry_after(self, app, client, problem, monkeypatch):
        monkeypatch.setattr(app.extensions[HELD], "_places", Places(0))
        answer = client.get("/", headers=STREAM)
        problem(answer, 503, "too_many_streams")
        assert answer.headers["Retry-After"]

    def test_its_place_is_free_again_when_it_is_closed(self, app, client):
        places = app.extensions[HELD]._places
        answer = client.get("/", headers=STREAM, buffered=False)
        next(iter(answer.iter_encoded()))
        assert places._taken.total() == 1
        answer.close()
        assert places._taken.total() == 0

    def test_a_query_that_is_refused_is_a_problem(self, client, problem):
        problem(client.get("/?stauts=failed", headers=STREAM), 422, "invalid_query")


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.4231, "0.42 s"),
            (-3, "0 s"),
            (7.04, "7 s"),
            (59.6, "1 min"),
            (185, "3 min 5 s"),
            (7200, "2 h"),
            (445_000, "5 d 3 h"),
            (40_000_000, "462 d 23 h"),
            (None, "–"),
            (float("inf"), "–"),
        ],
    )
    def test_durations(self, seconds, text):
        assert words.duration(seconds).replace("\u202f", " ") == text

    def test_ages_name_their_largest_unit(self):
        now = datetime.now(UTC)
        ages = {0.5: "now", 1: "1 s", 119: "1 min", 7199: "1 h", 86_400 * 3.9: "3 d"}
        for seconds, text in ages.items():
            assert words.ago(now - timedelta(seconds=seconds), now).replace("\u202f", " ") == text

    def test_numbers_sizes_and_places(self):
        assert [words.number(n) for n in (1234567, 0.0123456, None)] == ["1\u2009234\u2009567", "0.01235", "–"]
        assert [words.size(n).replace("\u202f", " ") for n in (0, 999, 1500, 123_456_789)] == [
            *("0 B", "999 B", "1.5 kB", "123 MB"),
        ]
        assert [words.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
            *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th"),
        ]
