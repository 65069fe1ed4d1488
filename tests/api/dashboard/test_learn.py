"""The Learn page as rendered by the server: a walk, and the form, on both databases."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Flask
from flask.testing import FlaskClient
from support.images import npz, small
from support.people import client_for

from api.dashboard.learn_page import TITLES, power, short
from shared.jobs.states import JobState
from shared.spec.job_spec import WalkSpec
from worker.trainer.run import Run
from worker.trainer.walk.walk import run_walk

SUMMED = {"type": "cross_entropy", "reduction": "sum"}
KINDS = {
    "linear": ("linear", "clamped_cross_entropy"),
    "relu": ({"type": "mlp", "hidden": [12], "activation": "relu"}, "cross_entropy"),
    "tanh": ({"type": "mlp", "hidden": [12], "activation": "tanh"}, SUMMED),
    "sigmoid": ({"type": "mlp", "hidden": [12], "activation": "sigmoid"}, {**SUMMED, "type": "clamped_cross_entropy"}),
    "gelu": ({"type": "mlp", "hidden": [12], "activation": "gelu"}, "cross_entropy"),
}
Walked = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def walked(client: FlaskClient, hands: Any, tmp_path: Path) -> Walked:
    """walked(architecture=…, change=…): the id of a finished walk and the content of its file, after `change`."""

    def walk(change: Callable[[dict[str, Any]], None] = lambda page: None, **fields: Any) -> tuple[str, dict[str, Any]]:
        job = client.post("/v1/walks", json={"seed": 7, **fields}).json
        lease = hands.start()
        spec = WalkSpec.model_validate(job["spec"])
        try:
            run_walk(spec, Run(tmp_path), lambda _: None, data_dir=tmp_path, download=False, threads=1)
        finally:
            torch.use_deterministic_algorithms(False)
        page = json.loads((tmp_path / "artifacts" / "walk.json").read_text())
        change(page)
        hands.finish(lease, files=[hands.store(lease, "walk.json", json.dumps(page).encode())])
        return job["id"], page

    return walk


def learn(client: FlaskClient, query: str = "") -> str:
    answer = client.get(f"/learn{query}", headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return answer.text


def sections(html: str) -> dict[str, str]:
    """The section of each stage, by the name of the stage."""
    parts = re.findall(r'<section class="panel stage" id="(\w+)".*?</section>', html, re.DOTALL)
    whole = re.findall(r'<section class="panel stage" id="\w+".*?</section>', html, re.DOTALL)
    return dict(zip(parts, whole, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_has_title_explanation_formula_and_both_ways(client, walked, kind):
    net, loss = KINDS[kind]
    job_id, page = walked(architecture=net, loss=loss, batch_size=3)
    html = learn(client, f"?job={job_id}")
    shown = sections(html)
    assert list(shown) == ["batch", "net", *(stage["name"] for stage in page["stages"])]
    for stage in page["stages"]:
        part = shown[stage["name"]]
        assert TITLES[stage["name"]] in part
        assert part.count("<math") == 1
        assert re.search(r"<p>\s*[A-Z].{40,}?</p>", part, re.DOTALL), stage["name"]
        if stage["axes"]:
            numbers = torch.tensor(stage["manual"]["corner"], dtype=torch.float64).flatten().tolist()
            assert all(f">{short(value)}<" in part for value in numbers)
        for way in ("manual", "autograd"):
            first = stage[way]["corner"]
            while isinstance(first, list):
                first = first[0]
            assert repr(first) in part, (stage["name"], way)
        assert "By hand" in part
        assert "By autograd" in part
        assert "✓ the same" in part
    assert "None" not in html
    assert "Undefined" not in html


def test_ways_that_differ_are_shown_to_differ(client, walked):
    def plant(page: dict[str, Any]) -> None:
        page.update(agrees=False, max_relative_difference=0.5)
        stage = next(stage for stage in page["stages"] if stage["name"] == "db2")
        stage.update(max_relative_difference=0.5, max_absolute_difference=0.25)
        stage["manual"]["corner"][0] += 0.25

    job_id, _ = walked(plant)
    html = learn(client, f"?job={job_id}")
    assert "✗ By hand and by autograd differ" in html
    different = {name for name, part in sections(html).items() if "✗ they differ" in part}
    assert different == {"db2"}
    assert "0.250" in sections(html)["db2"].partition("cell by cell")[2]


def test_of_a_large_network_and_batch_only_the_first_rows_are_shown(client, walked):
    job_id, _ = walked(architecture={"type": "mlp", "hidden": [300]}, batch_size=64)
    html = learn(client, f"?job={job_id}")
    assert "64 × 300, 10 × 10 shown" in sections(html)["hidden"]
    assert len(html) < 600_000


def test_the_form_has_the_values_of_the_shown_walk(client, walked):
    job_id, _ = walked(architecture="linear", init="xavier", batch=3, batch_size=5, seed=11)
    html = learn(client, f"?job={job_id}")
    for part in (
        '<option value="linear" selected>',
        "<option selected>xavier</option>",
        'name="batch" type="number" min="1" value="3"',
        'value="11"',
    ):
        assert part in html, part
    fresh = learn(client)
    assert '<option value="mlp" selected>' in fresh
    assert "<section" not in fresh


class TestWeights:
    def finished(self, hands: Any, **spec: Any) -> str:
        job = hands.submit(**spec)
        lease = hands.start()
        files = [hands.store(lease, "model.safetensors", b"weights")]
        hands.finish(lease, files=files, result={"test_accuracy": 0.9731})
        return job["id"]

    def test_finished_jobs_with_a_supported_architecture_are_listed(self, client, hands):
        mine = self.finished(hands, name="mine", architecture={"type": "mlp", "hidden": [12]})
        others = [
            self.finished(hands, architecture=net)
            for net in ("cnn", {"type": "mlp", "hidden": [8, 8]}, {"type": "mlp", "dropout": 0.1})
        ]
        html = learn(client)
        assert f'<option value="{mine}"' in html
        assert "mine, 97.3" in html
        assert not [job_id for job_id in others if job_id in html]

    def test_a_form_can_start_from_a_job(self, client, hands):
        mine = self.finished(hands, architecture={"type": "mlp", "hidden": [12]})
        html = learn(client, f"?from={mine}")
        assert re.search(f'<option value="{mine}"[^>]* selected>', html)
        assert 'data-pointer="/architecture/hidden" value="12"' in html
        deep = self.finished(hands, architecture={"type": "mlp", "hidden": [8, 8]})
        refused = client.get(f"/learn?from={deep}", headers={"Accept": "text/html"})
        assert refused.status_code == 422
        assert "one hidden layer" in refused.text


def test_walks_weights_and_datasets_of_other_owners_are_not_found(app, hands):
    alice, bob = client_for(app, "alice"), client_for(app, "bob")
    walk = alice.post("/v1/walks", json={}).json
    alice.post(walk["links"]["cancel"])
    job = alice.post("/v1/jobs", json={"name": "hers"}).json["id"]
    lease = hands.start()
    hands.finish(lease, files=[hands.store(lease, "model.safetensors", b"weights")])
    upload = alice.post("/v1/datasets", data={"file": (io.BytesIO(npz(**small())), "squares.npz")}).json["id"]
    for query in (f"?job={walk['id']}", f"?from={job}"):
        assert alice.get(f"/learn{query}").status_code == 200
        assert bob.get(f"/learn{query}").status_code == 404
    seen, unseen = (who.get("/learn").text for who in (alice, bob))
    assert all(own in seen and own not in unseen for own in (job, upload))


class TestWalksThatAreNotThere:
    def test_a_queued_and_a_cancelled_walk_are_shown_as_such(self, client):
        job = client.post("/v1/walks", json={}).json
        assert 'data-terminal="no"' in learn(client, f"?job={job['id']}")
        client.post(job["links"]["cancel"])
        html = learn(client, f"?job={job['id']}")
        assert 'data-terminal="yes"' in html
        assert "cancelled before it started" in html

    @pytest.mark.parametrize("query", ["?job=job_0", "?from=job_0"])
    def test_an_unknown_job(self, client, query):
        answer = client.get(f"/learn{query}", headers={"Accept": "text/html"})
        assert (answer.status_code, "job job_0 not found" in answer.text) == (404, True)

    def test_a_job_of_another_kind(self, client, hands):
        job = hands.submit()
        answer = client.get(f"/learn?job={job['id']}", headers={"Accept": "text/html"})
        assert answer.status_code == 404
        assert "is a training, not a walk" in answer.text

    def test_a_file_that_was_removed(self, client, walked, services):
        job_id, _ = walked()
        services.store.remove_folder(job_id)
        answer = client.get(f"/learn?job={job_id}", headers={"Accept": "text/html"})
        assert answer.status_code == 404
        assert "has been removed from the store" in answer.text

    def test_a_failed_walk_shows_the_reason(self, client, hands):
        job = client.post("/v1/walks", json={}).json
        reason = {"code": "diverged", "detail": "logits is not finite"}
        hands.finish(hands.start(), JobState.FAILED, reason=reason)
        assert "logits is not finite" in learn(client, f"?job={job['id']}")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.1234, "0.123"),
        (-0.98765, "−0.988"),
        (9.9996, "10.00"),
        (123.456, "123.5"),
        (-12345.6, "−12346"),
        (2.2e-16, "2e-16"),
        (-3e-5, "−3e-5"),
        (1.5e7, "2e7"),
        (0.0004999, "5e-4"),
    ],
)
def test_a_number_in_a_cell_is_short(value, text):
    assert short(value) == text
    assert len(short(value)) <= 7


def test_a_difference_is_written_as_a_power_of_ten():
    assert power(2.2e-16) == "2.2 · 10<sup>−16</sup>"
    assert power(0.0) == "0"
