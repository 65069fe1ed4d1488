"""A gradient check as a job: the same queue, supervisor and process as a training job, and a table as its result."""

from __future__ import annotations

from typing import Any

import pytest
from support.service import Service

pytest.importorskip("worker.trainer.gradients.gradient_check")


def submit(service: Service, **body: Any) -> dict[str, Any]:
    answer = service.http.post("/v1/gradient-checks", json=body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


@pytest.mark.parametrize("architecture", ["linear", "mlp", "cnn"])
def test_a_check_ends_with_its_table_and_its_file(steady: Service, architecture: str) -> None:
    job = steady.wait(submit(steady, architecture=architecture, batches=2, samples=5)["id"])
    assert job["status"] == "succeeded", job["status_reason"]
    table = job["result"]["gradient_check"]
    assert (table["passed"], table["dtype"]) == (True, "float64")
    assert set(steady.artifacts(job["id"])) == {"gradient_check.json"}
    stored = steady.http.get(f"/v1/jobs/{job['id']}/artifacts/gradient_check.json").json()
    assert stored == table
    assert steady.series(job["id"]) == {}
    assert job["progress"]["percent"] == 100.0


def test_a_check_is_paused_resumed_and_cancelled_like_any_job(steady: Service) -> None:
    job_id = submit(steady, architecture="cnn", batches=1000, batch_size=256, samples=10_000)["id"]
    steady.trainer(job_id)
    assert steady.http.post(f"/v1/jobs/{job_id}/pause").status_code == 202
    steady.wait_until(job_id, lambda job: job["status"] == "paused", 20, "the pause")
    assert steady.http.post(f"/v1/jobs/{job_id}/resume").status_code == 202
    steady.trainer(job_id, attempt=2)
    steady.cancel(job_id)
    assert steady.wait(job_id, 20)["status"] == "cancelled"
