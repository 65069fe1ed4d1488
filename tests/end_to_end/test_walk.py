"""A walk as a job: through queue, supervisor and process to a file with every number."""

from __future__ import annotations

from typing import Any

import pytest
from support.service import Service


def submit(service: Service, **body: Any) -> dict[str, Any]:
    answer = service.http.post("/v1/walks", json=body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


@pytest.mark.parametrize(("architecture", "stages"), [("linear", 7), ("mlp", 13)])
def test_a_walk_ends_with_every_stage_in_its_file(steady: Service, architecture: str, stages: int) -> None:
    job = steady.wait(submit(steady, architecture=architecture, seed=7)["id"])
    assert job["status"] == "succeeded", job["status_reason"]
    assert (job["result"]["agrees"], job["result"]["stages"]) == (True, stages)
    assert set(steady.artifacts(job["id"])) == {"walk.json"}
    answer = steady.http.get(f"/v1/jobs/{job['id']}/artifacts/walk.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert [stage["shape"] for stage in answer.json()["stages"]][-2:] == (
        [[10, 64], [10]] if architecture == "linear" else [[30, 64], [30]]
    )
    assert job["progress"]["percent"] == 100.0


def test_a_walk_with_trained_weights_has_a_smaller_loss(steady: Service) -> None:
    origin = steady.wait(steady.submit(architecture="linear", epochs=10, seed=7)["id"])
    fresh, trained = (
        steady.wait(submit(steady, architecture="linear", batch_size=64, seed=7, **more)["id"])
        for more in ({}, {"init_from": {"job": origin["id"]}})
    )
    assert trained["status"] == "succeeded", trained["status_reason"]
    assert trained["result"]["loss"] < 0.5 < fresh["result"]["loss"]
