"""Ids and names in URL paths are looked up in the database and never used as file paths."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

SECRET = "what lies outside of the store"
SIGNS = st.sampled_from(
    ["..", ".", "/", "\\", "%2e%2e", "%2f", "%5c", "%00", "%c0%af", "%u2215", "job_1", "é", "‥", "／", ";", "?", "#"]
)
PIECES = st.one_of(st.lists(SIGNS, min_size=1, max_size=5).map("".join), st.text(min_size=1, max_size=12).map(quote))


@pytest.fixture
def outside(tmp_path, client, hands):
    """Files next to and above the store, and a job with one file."""
    job = hands.submit()
    lease = hands.start()
    hands.finish(lease, files=[hands.store(lease, "spec.json", b"{}")])
    for folder in (tmp_path, tmp_path / "artifacts", tmp_path.parent):
        (folder / "secret").write_text(SECRET)
    return job["id"]


def paths(app, job_id):
    """Each route with path parameters, as (rule, path with a placeholder)."""
    for rule in app.url_map.iter_rules():
        for name in sorted(rule.arguments):
            path = str(rule)
            for other in rule.arguments:
                filled = "{}" if other == name else job_id if "job" in other else "spec.json"
                for kind in ("", "job:", "path:"):
                    path = path.replace(f"<{kind}{other}>", filled)
            for method in sorted(rule.methods - {"OPTIONS", "HEAD"}):
                yield method, path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(piece=PIECES)
@example(piece="..%2f..%2fsecret")
@example(piece="%2e%2e/secret")
@example(piece="../secret")
@example(piece="%2fetc%2fpasswd")
@example(piece="..%5csecret")
@example(piece="secret%00.json")
@example(piece="%ff%fe")
@example(piece="x" * 3000)
def test_no_path_leads_out_of_the_store(app, client, outside, tmp_path, piece):
    asked = 0
    for method, path in paths(app, outside):
        if method == "DELETE" and "{}" not in path:
            continue
        answer = client.open(path.format(piece), method=method)
        assert answer.status_code < 500, f"{method} {path.format(piece)}: {answer.text}"
        assert SECRET not in answer.text
        asked += 1
    assert asked > 15
    assert (tmp_path / "secret").read_text() == SECRET
    assert client.get(f"/v1/jobs/{outside}/artifacts/spec.json").data == b"{}"
