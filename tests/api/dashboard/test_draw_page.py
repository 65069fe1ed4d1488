"""Which jobs the Draw page lists, in which order, and why it does not list others."""

from __future__ import annotations

import html
import io
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from support.images import npz, pixels, small
from support.people import client_for


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def finished(hands):
    """finished(accuracy, **spec): the id of a job with this spec that has succeeded."""

    def finish(accuracy: float | None, **spec: Any) -> str:
        job = hands.submit(**spec)
        hands.finish(hands.start(), result={} if accuracy is None else {"test_accuracy": accuracy})
        return str(job["id"])

    return finish


def offered(client: FlaskClient, query: str = "") -> list[str]:
    return re.findall(r'<option value="(job_[0-9a-f]+)"', client.get(f"/draw{query}").text)


def said(client: FlaskClient, job_id: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>|\s+", " ", client.get(f"/draw?job={job_id}").text))


def test_jobs_of_digits_come_first_and_the_best_of_each_dataset(client: FlaskClient, finished) -> None:
    grey = client.post("/v1/datasets", data={"file": (_file(small()), "grey.npz")}).json["id"]
    uploaded, fashion = finished(0.99, dataset=grey), finished(0.9, dataset="fashion_mnist")
    bad, unknown, good = finished(0.5), finished(None), finished(0.9)
    mnist = finished(0.2, dataset="mnist", architecture="linear")
    assert offered(client) == [mnist, good, bad, unknown, uploaded, fashion]


def test_jobs_that_cannot_classify_are_not_listed_and_the_reason_is_shown(client: FlaskClient, hands, finished) -> None:
    colour = client.post("/v1/datasets", data={"file": (_file(small(x=pixels(40, 6, 6, 3))), "colour.npz")}).json["id"]
    for job_id, why in (
        (finished(0.9, dataset="cifar10"), "trained on cifar10, whose images are in colour"),
        (finished(0.9, dataset=colour), "images are in colour"),
        (finished(0.9, architecture={"type": "torchvision", "name": "resnet18"}), "a torchvision model"),
        (client.post("/v1/gradient-checks", json={}).json["id"], "a gradient check"),
        (client.post("/v1/walks", json={}).json["id"], "a walk"),
        (hands.submit()["id"], "is queued"),
    ):
        assert offered(client, f"?job={job_id}") == []
        assert why in said(client, job_id)


def test_a_requested_job_is_listed_even_if_there_are_many_better_ones(
    client: FlaskClient, finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.dashboard.draw_page.MOST", 1)
    worse, better = finished(0.1), finished(0.9)
    assert offered(client) == [better]
    assert offered(client, f"?job={worse}") == [better, worse]
    assert f'value="{worse}" selected' in client.get(f"/draw?job={worse}").text


def test_without_a_suitable_job_the_page_links_to_a_form_for_one(client: FlaskClient) -> None:
    shown = client.get("/draw")
    assert "No finished job can classify a drawing yet" in shown.text
    (address,) = re.findall(r'href="(/submit\?spec=[^"]+)"', shown.text)
    form = client.get(html.unescape(address))
    assert form.status_code == 200
    assert 'value="reads digits"' in form.text


def test_jobs_of_other_owners_are_not_found(app: Flask, hands) -> None:
    ann, bob = client_for(app, "ann"), client_for(app, "bob")
    job_id = bob.post("/v1/jobs", json={}).json["id"]
    hands.finish(hands.start(), result={"test_accuracy": 0.9})
    assert (offered(ann), offered(bob)) == ([], [job_id])
    assert ann.get(f"/draw?job={job_id}").status_code == 404


def test_an_unknown_job_is_a_404(client: FlaskClient) -> None:
    assert client.get("/draw?job=job_0", headers={"Accept": "text/html"}).status_code == 404


def _file(arrays: dict[str, Any]) -> Any:
    return io.BytesIO(npz(**arrays))
