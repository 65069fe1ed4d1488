"""Jobs controlled while real processes train them: paused, resumed, started from another's weights, repeated."""

from __future__ import annotations

import hashlib
import io
import signal
import zipfile
from pathlib import PurePath
from typing import Any

import pytest
from support.service import PATIENCE, Service, assert_whole_curve

pytestmark = pytest.mark.long

# about 3 s of training on digits; the only checkpoint is that of a pause
LONG: dict[str, Any] = {
    "architecture": {"type": "cnn", "channels": [4], "hidden": []},
    "gradients": "manual",
    "batch_size": 4,
    "epochs": 30,
    "lr": 0.01,
    "seed": 5,
    "checkpoint": {"every_seconds": None},
}
SHORT: dict[str, Any] = {"epochs": 2, "seed": 11}


@pytest.fixture(scope="module")
def unbroken(steady: Service) -> dict[str, Any]:
    """The same job without interruption, whose result every interrupted run must have."""
    job = steady.wait(steady.submit(**LONG)["id"])
    assert job["status"] == "succeeded"
    return job


def steer(service: Service, job_id: str, action: str) -> dict[str, Any]:
    answer = service.http.post(f"/v1/jobs/{job_id}/{action}")
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def wait_for_points(service: Service, job_id: str, at_least: int = 1) -> None:
    """Wait until the job trains: a pause before the first step would prove little."""
    service.wait_until(
        job_id, lambda _: len(service.series(job_id).get("train_loss", [])) >= at_least, PATIENCE, "points of the curve"
    )


def paused(service: Service, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = service.wait_until(job_id, lambda job: job["status"] == "paused", PATIENCE, "the pause")
    return job


def curve_of(service: Service, job_id: str) -> dict[str, Any]:
    return {name: points for name, points in service.series(job_id).items() if name != "examples_per_second"}


def test_a_job_paused_in_mid_epoch_and_resumed_is_the_run_that_was_never_paused(
    steady: Service, unbroken: dict[str, Any]
) -> None:
    job_id = steady.submit(**LONG, max_attempts=1)["id"]
    for attempt in (1, 2):
        trainer = steady.trainer(job_id, attempt)
        wait_for_points(steady, job_id, at_least=5 * attempt)
        assert steer(steady, job_id, "pause")["status"] == "pausing"
        job = paused(steady, job_id)
        assert not trainer.is_running()
        assert (job["attempts"][-1]["outcome"], job["terminal"], job["queue"]) == ("paused", False, None)
        assert steady.wait(steady.submit(epochs=1)["id"])["status"] == "succeeded", "the slot is not free"
        assert steady.job(job_id)["status"] == "paused"
        assert steer(steady, job_id, "resume")["status"] in ("queued", "running")
    ended = steady.wait(job_id)
    assert ended["status"] == "succeeded", ended["status_reason"]
    assert [a["outcome"] for a in ended["attempts"]] == ["paused", "paused", "succeeded"]
    stops = [attempt["resumed_from_step"] for attempt in ended["attempts"][1:]]
    assert any(step % 364 for step in stops), "both pauses fell on the end of an epoch"
    for name in ("weights_sha256", "data_order_sha256"):
        assert ended["result"][name] == unbroken["result"][name]
    assert_whole_curve(steady, ended)
    assert curve_of(steady, job_id) == curve_of(steady, unbroken["id"])


def test_cancel_of_a_paused_job_is_final_at_once(steady: Service) -> None:
    job_id = steady.submit(**{**LONG, "epochs": 5000})["id"]
    wait_for_points(steady, job_id)
    steer(steady, job_id, "pause")
    paused(steady, job_id)
    assert steady.http.delete(f"/v1/jobs/{job_id}").status_code == 409
    assert steady.cancel(job_id)["status"] == "cancelled"
    assert steady.http.post(f"/v1/jobs/{job_id}/resume").status_code == 409
    assert steady.http.delete(f"/v1/jobs/{job_id}").json()["freed_bytes"] > 0


def test_a_cancel_request_wins_over_a_pause_request(steady: Service) -> None:
    job_id = steady.submit(**{**LONG, "epochs": 5000})["id"]
    wait_for_points(steady, job_id)
    steer(steady, job_id, "pause")
    assert steady.cancel(job_id)["status"] == "cancelling"
    assert steady.wait(job_id)["status"] == "cancelled"


def test_a_pause_request_withdrawn_at_once_does_not_change_the_run(steady: Service, unbroken: dict[str, Any]) -> None:
    job_id = steady.submit(**LONG, max_attempts=1)["id"]
    wait_for_points(steady, job_id)
    steer(steady, job_id, "pause")
    assert steer(steady, job_id, "resume")["status"] in ("running", "queued")
    ended = steady.wait(job_id)
    assert ended["status"] == "succeeded", ended["status_reason"]
    assert ended["result"]["weights_sha256"] == unbroken["result"]["weights_sha256"]


def test_a_cancelled_job_that_is_retried_is_the_run_that_was_never_cancelled(
    steady: Service, unbroken: dict[str, Any]
) -> None:
    job_id = steady.submit(**LONG, max_attempts=1)["id"]
    wait_for_points(steady, job_id, at_least=5)
    steady.cancel(job_id)
    assert steady.wait(job_id)["status"] == "cancelled"
    job = steer(steady, job_id, "retry")
    assert (job["id"], job["terminal"], job["cancel_requested_at"]) == (job_id, False, None)
    ended = steady.wait(job_id)
    assert ended["status"] == "succeeded", ended["status_reason"]
    assert [a["outcome"] for a in ended["attempts"]] == ["cancelled", "succeeded"]
    assert ended["attempts"][1]["resumed_from_step"] > 0
    assert ended["result"]["weights_sha256"] == unbroken["result"]["weights_sha256"]
    assert_whole_curve(steady, ended)
    assert curve_of(steady, job_id) == curve_of(steady, unbroken["id"])


def test_a_finished_job_s_files_come_as_one_zip_with_the_hashes_of_the_list(
    steady: Service, unbroken: dict[str, Any]
) -> None:
    answer = steady.http.get(unbroken["links"]["artifacts_zip"])
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        found = {PurePath(name).name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    assert found == {name: file["sha256"] for name, file in steady.artifacts(unbroken["id"]).items()}


def test_a_trainer_that_does_not_stop_is_killed_for_a_pause_and_starts_over(steady: Service) -> None:
    job_id = steady.submit(**{**SHORT, "epochs": 30}, batch_size=1, max_attempts=1)["id"]
    trainer = steady.trainer(job_id)
    trainer.suspend()
    steer(steady, job_id, "pause")
    paused(steady, job_id)
    assert not trainer.is_running()
    steer(steady, job_id, "resume")
    assert steady.wait(job_id)["status"] == "succeeded"


def test_a_worker_that_is_killed_during_a_pause_request_leaves_a_paused_job(service: Service) -> None:
    service.worker.stop()
    service.start_worker(env={"GRADQ_GRACE_SECONDS": "60"})
    job_id = service.submit(**LONG)["id"]
    wait_for_points(service, job_id)
    trainer = service.trainer(job_id)
    trainer.suspend()  # keeps the job pausing until this test resumes it
    steer(service, job_id, "pause")
    trainer.send_signal(signal.SIGTERM)
    service.worker.kill()
    trainer.kill()
    service.start_worker()
    job = paused(service, job_id)
    assert job["attempts"][0]["outcome"] in ("worker_lost", "database_away")  # the second on a busy machine
    assert len(job["attempts"]) == 1
    steer(service, job_id, "resume")
    assert service.wait(job_id)["status"] == "succeeded"


def test_a_repeated_job_is_identical(steady: Service, unbroken: dict[str, Any]) -> None:
    answer = steady.http.post(f"/v1/jobs/{unbroken['id']}/reproduce")
    assert answer.status_code == 202
    again = steady.wait(answer.json()["id"])
    assert again["name"] == f"{unbroken['name']} reproduced"
    assert again["reproduces"] == unbroken["id"]
    assert again["result"]["reproduction"] == {
        "of": unbroken["id"],
        "identical": True,
        "first_difference": None,
        "environment_differences": {},
    }


def test_a_job_whose_original_was_deleted_has_nothing_to_be_compared_with(steady: Service) -> None:
    original = steady.wait(steady.submit(**SHORT)["id"])
    blocker = steady.submit(**{**LONG, "epochs": 5000})["id"]
    again = steady.http.post(f"/v1/jobs/{original['id']}/reproduce").json()["id"]
    assert steady.http.delete(f"/v1/jobs/{original['id']}").status_code == 200
    steady.cancel(blocker)
    reproduction = steady.wait(again)["result"]["reproduction"]
    assert reproduction["identical"] is None
    assert f"{original['id']} has been deleted" in reproduction["detail"]


def test_a_job_starts_from_the_final_weights_of_another(steady: Service) -> None:
    origin = steady.wait(steady.submit(**SHORT, lr=0.5)["id"])
    fresh, begun = (
        steady.wait(steady.submit(**{**SHORT, "epochs": 1}, lr=1e-6, **more)["id"])
        for more in ({}, {"init_from": {"job": origin["id"]}})
    )
    assert begun["status"] == "succeeded", begun["status_reason"]
    assert begun["result"]["val_accuracy"] == pytest.approx(origin["result"]["val_accuracy"], abs=0.02)
    assert fresh["result"]["val_accuracy"] < 0.5 < begun["result"]["val_accuracy"]


def test_weights_that_were_deleted_before_the_start_fail_the_job(steady: Service) -> None:
    origin = steady.wait(steady.submit(**SHORT)["id"])
    blocker = steady.submit(**{**LONG, "epochs": 5000})["id"]
    job = steady.submit(**SHORT, init_from={"job": origin["id"]})
    assert steady.http.delete(f"/v1/jobs/{origin['id']}").status_code == 200
    steady.cancel(blocker)
    ended = steady.wait(job["id"])
    assert (ended["status"], ended["status_reason"]["code"], ended["attempt"]) == ("failed", "data_error", 1)
    assert f"{origin['id']} or its model.safetensors has been deleted" in ended["status_reason"]["detail"]
