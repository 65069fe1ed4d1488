"""Security headers of every response, and of the files of jobs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from api.http.security_headers import DATA_CSP, HEADERS
from api.routes.docs import DOCS_CSP
from shared.jobs.states import JobState

SCRIPT = b"<script>alert(1)</script>"
NAME = '</text><script>alert("1")</script>'


def policy(csp: str) -> dict[str, str]:
    return {words[0]: " ".join(words[1:]) for words in (part.split() for part in csp.split(";"))}


def test_every_answer_of_every_route_and_method_carries_them(app, client):
    asked = 0
    for rule in app.url_map.iter_rules():
        path = str(rule)
        for name in rule.arguments:
            path = path.replace(f"<{name}>", "none").replace(f"<job:{name}>", "none").replace(f"<path:{name}>", "none")
        for method in sorted(rule.methods | {"PUT"}):
            answer = client.open(path, method=method)
            for name in HEADERS:
                assert answer.headers.get(name), f"{method} {path} lacks {name}"
            found = policy(answer.headers["Content-Security-Policy"])
            assert found["frame-ancestors"] == "'none'"
            assert "'unsafe-eval'" not in str(found)
            assert "'unsafe-inline'" not in found.get("script-src", found["default-src"])
            asked += 1
    assert asked > 100


def test_data_may_run_nothing_load_nothing_and_send_nothing():
    found = policy(DATA_CSP)
    assert (found["default-src"], found["base-uri"], found["form-action"]) == ("'none'", "'none'", "'none'")
    assert found["sandbox"] == ""  # no allow-scripts, no allow-same-origin
    assert "script-src" not in found
    assert policy(DOCS_CSP)["default-src"] == "'self'"


@pytest.mark.parametrize("name", ["evil.svg", "evil.html", "evil.xhtml", 'a".html', "evil.js", "evil.pdf"])
def test_the_file_of_a_job_is_saved_and_never_shown(client, hands, name):
    job = hands.submit()
    lease = hands.start()
    hands.finish(lease, JobState.SUCCEEDED, files=[hands.store(lease, name, SCRIPT)])
    answer = client.get(f"/v1/jobs/{job['id']}/artifacts/{name}")
    assert (answer.status_code, answer.data) == (200, SCRIPT)
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    assert answer.headers["Content-Security-Policy"] == DATA_CSP
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    part = client.get(f"/v1/jobs/{job['id']}/artifacts/{name}", headers={"Range": "bytes=0-3"})
    assert part.status_code == 206
    assert part.headers["Content-Disposition"].startswith("attachment")


def test_the_name_of_a_job_is_text_in_its_picture(client, hands):
    job = hands.submit(name=NAME)
    lease = hands.start()
    hands.point(lease, 23, 1, train_loss=0.5)
    answer = client.get(f"/v1/jobs/{job['id']}/loss_curve.svg")
    assert answer.headers["Content-Security-Policy"] == DATA_CSP
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(answer.text).iter()}
    assert "path" in tags
    assert "script" not in tags


def test_no_page_of_another_site_may_read_an_answer(client):
    answer = client.get("/v1/jobs", headers={"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"})
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
