"""What the form of the Submit page offers of what is there now."""

from __future__ import annotations

import html
import io
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from support.images import npz, small
from support.people import client_for


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


def options(client: FlaskClient, address: str, id: str) -> dict[str, bool]:
    """Of a select or of a list of hints: what can be chosen, and whether it is."""
    (inner,) = re.findall(rf'id="{id}".*?>(.*?)</(?:select|datalist)>', client.get(address).text, re.DOTALL)
    found = re.findall(r"<option value=(?:'([^']*)'|\"([^\"]*)\")( selected)?", inner)
    return {html.unescape(one or other).strip('"'): bool(chosen) for one, other, chosen in found}


def test_jobs_that_have_succeeded_are_offered_to_go_on_from_the_newest_first(client: FlaskClient, hands) -> None:
    done = [hands.submit()["id"] for _ in range(2)]
    for _ in done:
        hands.finish(hands.start())
    hands.submit()
    assert list(options(client, "/submit", "f-init_from-job-hints")) == done[::-1]


def test_a_copy_of_a_job_whose_data_set_was_deleted_shows_what_it_was(client: FlaskClient, hands) -> None:
    uploaded = client.post("/v1/datasets", data={"file": (io.BytesIO(npz(**small())), "a.npz")}).json["id"]
    job = hands.submit(dataset=uploaded)
    assert options(client, "/submit", "f-dataset")[uploaded] is False
    assert options(client, f"/submit?from={job['id']}", "f-dataset")[uploaded] is True
    hands.finish(hands.start())
    assert client.delete(f"/v1/datasets/{uploaded}").status_code == 200
    assert uploaded not in options(client, "/submit", "f-dataset")
    assert options(client, f"/submit?from={job['id']}", "f-dataset")[uploaded] is True


def test_anothers_jobs_and_data_sets_are_not_there(app: Flask, hands) -> None:
    ann, bob = client_for(app, "ann"), client_for(app, "bob")
    uploaded = bob.post("/v1/datasets", data={"file": (io.BytesIO(npz(**small())), "a.npz")}).json["id"]
    job_id = bob.post("/v1/jobs", json={"dataset": uploaded}).json["id"]
    hands.finish(hands.start())
    assert uploaded in options(bob, "/submit", "f-dataset")
    assert uploaded not in options(ann, "/submit", "f-dataset")
    assert options(bob, "/submit", "f-init_from-job-hints") == {job_id: False}
    assert 'id="f-init_from-job-hints"' not in ann.get("/submit").text
    assert ann.get(f"/submit?from={job_id}").status_code == 404
    assert ann.get("/submit", query_string={"spec": f'{{"dataset": "{uploaded}"}}'}).status_code == 422


def test_a_data_set_that_is_not_on_this_machine_says_so(client: FlaskClient) -> None:
    assert (
        "28x28 grey handwritten digits (60 000 train, 10 000 test), downloaded by the first job" in client.get("/submit").text
    )


@pytest.mark.parametrize(
    "spec", ["[]", "{", '{"lr": 1e999}', '{"optimiser": "sgd"}', '{"dataset": "\\ud800"}', '{"preset": "\\ud800"}']
)
def test_a_spec_in_the_address_that_is_none_is_refused(client: FlaskClient, spec: str) -> None:
    refused = client.get("/submit", query_string={"spec": spec}, headers={"Accept": "text/html"})
    assert (refused.status_code in (400, 422), refused.mimetype) == (True, "text/html")
