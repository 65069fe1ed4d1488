"""Jobs of a kind that this version does not know, queued by a newer one: no worker of this version claims them, they
wait with the reason, and everything else of the API works as with any other job."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update
from support.store import claim, heartbeat, running, standing, submit, write

from api.jobs import queue_status
from shared.db.database import Database
from shared.db.tables import Job
from shared.jobs import queue
from shared.jobs.states import JobState
from shared.spec.job_spec import KINDS

KIND = "distillation"
SPEC = {"teacher": "job_1", "students": [{"depth": 2}]}  # none of the fields that other kinds have


def make_unknown(database: Database, job_id: str, kind: str = KIND) -> None:
    """Give the job another kind, and a spec that only a newer version can read."""
    change = update(Job).where(Job.id == job_id).values(kind=kind, spec=SPEC, priority=90)
    write(database, lambda session: session.execute(change))


@pytest.mark.parametrize("kind", [KIND, "", "Training", "training ", "walk2", "gradient-check"])
def test_only_known_kinds_are_claimed_and_the_others_are_passed_over(database: Database, kind: str) -> None:
    first, second = submit(database), submit(database)
    make_unknown(database, first, kind)
    assert write(database, queue.waiting, ["auto", "cpu"], 5) == 1
    job = claim(database)
    assert job is not None
    assert job.id == second
    assert claim(database) is None
    assert write(database, queue.waiting, ["auto", "cpu"], 5) == 0


def test_the_reason_is_that_no_live_worker_knows_the_kind(database: Database) -> None:
    job_id = submit(database)
    make_unknown(database, job_id)

    def code() -> str:
        found: str = standing(database, job_id)["reason"]["code"]
        return found

    devices = {"kinds": ["cpu"], "slots": []}
    assert code() == "no_live_worker"
    heartbeat(database, "w1", devices={**devices, "job_kinds": sorted(KINDS)})
    assert code() == "no_worker_for_kind"
    assert KIND in standing(database, job_id)["reason"]["detail"]
    (of_device,) = [q for q in write(database, queue_status.queues, 60.0) if q.device == "auto"]
    assert [(reason["code"], reason["jobs"]) for reason in of_device.reasons] == [("no_worker_for_kind", 1)]
    submit(database)
    (of_device,) = [q for q in write(database, queue_status.queues, 60.0) if q.device == "auto"]
    assert [(reason["code"], reason["jobs"]) for reason in of_device.reasons][1:] == [("no_worker_for_kind", 1)]
    heartbeat(database, "w2", devices={**devices, "job_kinds": [*sorted(KINDS), KIND]}, draining=True)
    assert code() == "no_worker_for_kind"
    heartbeat(database, "w2", devices={**devices, "job_kinds": [*sorted(KINDS), KIND]})
    assert code() in ("starting", "waiting_for_device")


def test_workers_of_a_version_that_does_not_report_its_kinds_are_given_the_benefit(database: Database) -> None:
    job_id = submit(database)
    make_unknown(database, job_id)
    heartbeat(database, "old", devices={"kinds": ["cpu"], "slots": []})
    assert standing(database, job_id)["reason"]["code"] in ("starting", "waiting_for_device")


def test_a_lost_attempt_of_an_unknown_kind_is_queued_again(database: Database) -> None:
    lease = running(database)
    make_unknown(database, lease.job_id)
    assert write(database, queue.mark_lost, lease, "gone") is JobState.QUEUED


GETS = (
    *("/v1/jobs/{id}", "/v1/jobs", "/v1/jobs?sort=-created_at", "/v1/jobs/{id}/events", "/v1/jobs/{id}/metrics"),
    *("/v1/jobs/{id}/artifacts", "/v1/jobs/{id}/loss_curve.svg", "/v1/jobs/{id}/artifacts.zip"),
    *("/v1/queues", "/v1/workers", "/metrics", "/readyz", "/", "/jobs/{id}", "/compare?jobs={id}", "/draw?job={id}"),
    *("/submit?from={id}", "/learn", "/learn/{id}", "/system"),
)


@pytest.mark.parametrize("state", ["queued", "running", "paused", "succeeded", "failed"])
def test_no_request_fails_because_of_a_job_of_an_unknown_kind(app: Flask, hands, services, state: str) -> None:
    hands.beat(devices={"kinds": ["cpu"], "slots": [], "job_kinds": sorted(KINDS)})
    job_id = hands.submit()["id"]
    if state != "queued":
        lease = hands.start()
        hands.progress(lease, epoch=1, epochs=2, step=3, total_steps=9, examples_per_second=5.0)
        if state == "paused":
            hands.client.post(f"/v1/jobs/{job_id}/pause")
            hands.release(lease)
        elif state != "running":
            reason = None if state == "succeeded" else {"code": "diverged", "detail": "nan"}
            hands.finish(lease, JobState(state), result={"grade": "A"}, reason=reason)
    make_unknown(services.database, job_id)
    app.testing = False
    client = app.test_client()
    found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json
    assert (found["kind"], found["status"], found["spec"]) == (KIND, state, SPEC)
    for path in GETS:
        answer = client.get(path.format(id=job_id), headers={"Accept": "text/html,application/json"})
        assert answer.status_code < 500, (path, answer.text[:400])
    for action in ("pause", "resume", "cancel", "retry", "reproduce"):
        answer = client.post(f"/v1/jobs/{job_id}/{action}")
        assert answer.status_code < 500, (action, answer.text[:400])
    bodies: tuple[dict[str, Any], ...] = ({"priority": 1}, {"name": "x"}, {"labels": {"a": "b"}})
    assert [client.patch(f"/v1/jobs/{job_id}", json=body).status_code for body in bodies] == [200, 200, 200]
    answer = client.post("/v1/jobs", json={"init_from": job_id})
    assert answer.status_code == 422
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/jobs/{job_id}").status_code in (200, 409)
