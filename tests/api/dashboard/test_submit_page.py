"""The options of the Submit form that depend on the database: jobs and datasets."""

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
    """The options of a select or datalist: whether each is chosen."""
    (inner,) = re.findall(rf'id="{id}".*?>(.*?)</(?:select|datalist)>', client.get(address).text, re.DOTALL)
    found = re.findall(r"<option value=(?:'([^']*)'|\"([^\"]*)\")( selected)?", inner)
    return {html.unescape(one or other).strip('"'): bool(chosen) for one, other, chosen in found}


def test_succeeded_jobs_are_suggested_for_init_from_newest_first(client: FlaskClient, hands) -> None:
    done = [hands.submit()["id"] for _ in range(2)]
    for _ in done:
        hands.finish(hands.start())
    hands.submit()
    assert list(options(client, "/submit", "f-init_from-job-hints")) == done[::-1]


def test_a_copy_of_a_job_whose_dataset_was_deleted_still_shows_it(client: FlaskClient, hands) -> None:
    uploaded = client.post("/v1/datasets", data={"file": (io.BytesIO(npz(**small())), "a.npz")}).json["id"]
    job = hands.submit(dataset=uploaded)
    assert options(client, "/submit", "f-dataset")[uploaded] is False
    assert options(client, f"/submit?from={job['id']}", "f-dataset")[uploaded] is True
    hands.finish(hands.start())
    assert client.delete(f"/v1/datasets/{uploaded}").status_code == 200
    assert uploaded not in options(client, "/submit", "f-dataset")
    assert options(client, f"/submit?from={job['id']}", "f-dataset")[uploaded] is True


def test_jobs_and_datasets_of_other_owners_are_not_found(app: Flask, hands) -> None:
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


def test_a_dataset_that_is_not_on_this_machine_is_marked(client: FlaskClient) -> None:
    assert (
        "28x28 grey handwritten digits (60 000 train, 10 000 test), downloaded by the first job"
        in client.get("/submit").text
    )


@pytest.mark.parametrize(
    "spec", ["[]", "{", '{"lr": 1e999}', '{"optimiser": "sgd"}', '{"dataset": "\\ud800"}', '{"preset": "\\ud800"}']
)
def test_an_invalid_spec_in_the_address_is_refused(client: FlaskClient, spec: str) -> None:
    refused = client.get("/submit", query_string={"spec": spec}, headers={"Accept": "text/html"})
    assert (refused.status_code in (400, 422), refused.mimetype) == (True, "text/html")
