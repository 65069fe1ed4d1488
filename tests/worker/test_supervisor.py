"""What a supervisor writes of what its trainer reports. Here that is a script; the real one runs in end_to_end/."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared import events
from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.db.database import Database
from shared.db.tables import Job
from shared.jobs import joblog, jobs, queue
from shared.jobs.states import JobState
from shared.spec.job_spec import GradientCheckSpec, JobSpec, WalkSpec, Work
from worker.devices import CPU
from worker.oom import OomKills
from worker.supervisor import Supervisor, WorkerContext

TABLE = {"passed": False, "max_relative_error": 0.5, "dtype": "float64", "parameters": {"0.weight": {}}}


class Scripted:
    """A launcher whose trainers leave some files, say their lines and are gone."""

    def __init__(self, *lines: events.Event, files: dict[str, str] | None = None, exitcode: int | None = 0) -> None:
        self.lines, self.files, self.exitcode, self.plans = lines, files or {}, exitcode, []

    def start(self, plan: dict[str, Any]) -> Any:
        self.plans.append(plan)
        for name, content in self.files.items():
            path = Path(plan["folder"], "artifacts", name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        ours, theirs = Pipe(duplex=False)
        for line in self.lines:
            theirs.send(line)
        theirs.close()
        nothing: Callable[[], None] = lambda: None
        process = SimpleNamespace(exitcode=self.exitcode)
        return SimpleNamespace(pipe=ours, process=process, end=ours.close, kill=nothing, alive=lambda: False)


@pytest.fixture
def database(settings: Settings, new_sqlite: Callable[[str], Database]) -> Iterator[Database]:
    settings.make_state_dir()
    database = new_sqlite(settings.database)
    yield database
    database.close()


@pytest.fixture
def supervise(settings: Settings, database: Database) -> Callable[..., Job]:
    """supervise(spec, launcher): the job's row after one attempt."""
    store = ArtifactStore(settings.artifacts)

    def supervise(spec: Work, launcher: Scripted, reproduces: str | None = None) -> Job:
        with database.write() as session:
            jobs.create(session, spec, reproduces)
        with database.write() as session:
            job = queue.claim(session, "w", "cpu", ["auto", "cpu"], 30)
        assert job is not None
        Supervisor(WorkerContext(settings, database, store, launcher, 1, threading.Event()), job, CPU).run()  # type: ignore[arg-type]
        with database.read() as session:
            return jobs.get(session, job.id)

    return supervise


def files_of(database: Database, job: Job) -> list[str]:
    with database.read() as session:
        return [row.name for row in jobs.artifacts_of(session, job.id)]


def last_line(database: Database, job: Job) -> str:
    with database.read() as session:
        return joblog.events_of(session, job.id)[-1].message


def test_a_check_that_passes_succeeds_with_its_table_and_its_file(
    supervise: Callable[..., Job], database: Database
) -> None:
    passed = {"passed": True, "gradient_check": {**TABLE, "passed": True}}
    launcher = Scripted(events.Finished(result=passed), files={"gradient_check.json": "{}"})
    job = supervise(GradientCheckSpec.parse({}), launcher)
    assert (launcher.plans[0]["kind"], job.state) == ("gradient_check", "succeeded")
    assert job.result is not None
    assert job.result["gradient_check"] == passed["gradient_check"]
    assert files_of(database, job) == ["gradient_check.json"]
    assert last_line(database, job) == "succeeded: gradients by hand agree with autograd's"


@pytest.mark.parametrize(("agrees", "verdict"), [(True, "agree"), (False, "DIFFER")])
def test_a_walk_succeeds_with_its_file_and_says_whether_both_ways_agree(
    supervise: Callable[..., Job], database: Database, agrees: bool, verdict: str
) -> None:
    result = {"agrees": agrees, "stages": 13, "max_relative_difference": 2e-16}
    launcher = Scripted(events.Finished(result=result), files={"walk.json": "{}"})
    job = supervise(WalkSpec.parse({}), launcher)
    assert (launcher.plans[0]["kind"], job.state) == ("walk", "succeeded")
    assert files_of(database, job) == ["walk.json"]
    assert last_line(database, job) == f"succeeded: 13 stages, and both ways {verdict} (at most 2e-16 apart)"


@pytest.mark.parametrize("spec", [GradientCheckSpec.parse({}), JobSpec.parse({})], ids=lambda spec: spec.kind)
def test_a_check_that_fails_still_shows_what_it_measured(
    supervise: Callable[..., Job], database: Database, spec: Work
) -> None:
    failed = events.Failed(code="gradient_check_failed", message="0.weight differs", data={"gradient_check": TABLE})
    job = supervise(spec, Scripted(failed, files={"gradient_check.json": "{}"}))
    assert (job.state, job.status_reason) == (
        "failed",
        {"code": "gradient_check_failed", "detail": "0.weight differs"},
    )
    assert job.result == {"passed": False, "gradient_check": TABLE}
    assert files_of(database, job) == ["gradient_check.json"]


def test_any_other_failure_stores_no_half_written_file(supervise: Callable[..., Job], database: Database) -> None:
    job = supervise(
        JobSpec.parse({}), Scripted(events.Failed(code="diverged", message="nan"), files={"spec.json": "{"})
    )
    assert (job.state, job.result, files_of(database, job)) == ("failed", None, [])


def curve(*losses: float, speed: float = 1.0) -> list[events.Event]:
    return [
        events.Metric(series="epoch", step=s, epoch=s, values={"train_loss": x, "examples_per_second": speed})
        for s, x in enumerate(losses, 1)
    ]


def finished(weights: str = "w", **environment: str) -> events.Finished:
    result = {"test_accuracy": 0.5, "weights_sha256": weights, "data_order_sha256": "d", "device": "cpu"}
    return events.Finished(result={**result, "environment": environment})


def test_a_repeated_run_is_held_against_its_original(supervise: Callable[..., Job]) -> None:
    spec = JobSpec.parse({"seed": 1})
    original = supervise(spec, Scripted(*curve(3.0, 2.0), finished(torch="2")))
    same = supervise(spec, Scripted(*curve(3.0, 2.0, speed=9.0), finished(torch="3")), original.id)
    other = supervise(spec, Scripted(*curve(3.0, 2.5), finished("v", torch="2")), original.id)
    assert same.result is not None
    assert same.result["reproduction"] == {
        "of": original.id,
        "identical": True,
        "first_difference": None,
        "environment_differences": {"torch": {"expected": "2", "found": "3"}},
    }
    assert other.result is not None
    assert other.result["reproduction"]["first_difference"] == {
        **{"step": 2, "metric": "train_loss", "expected": 2.0, "found": 2.5}
    }


def test_weights_to_begin_with_are_brought_and_their_damage_is_seen(
    supervise: Callable[..., Job], settings: Settings, database: Database
) -> None:
    origin = supervise(JobSpec.parse({}), Scripted(finished(), files={"model.safetensors": "weights"}))
    spec = JobSpec.parse({"init_from": {"job": origin.id}})
    launcher = Scripted(finished())
    assert supervise(spec, launcher).state == JobState.SUCCEEDED
    assert Path(launcher.plans[0]["init_from"]).name == "init_from.safetensors"
    with database.read() as session:
        key = jobs.artifact(session, origin.id, "model.safetensors").key
    path = ArtifactStore(settings.artifacts).local_path(key)
    assert path is not None
    path.write_text("other weights")
    job = supervise(spec, launcher)
    assert job.status_reason is not None
    assert (job.state, job.status_reason["code"]) == ("failed", "data_error")
    assert "damaged" in job.status_reason["detail"]
    path.unlink()
    job = supervise(spec, launcher)
    assert job.status_reason is not None
    assert (job.status_reason["code"], "deleted" in job.status_reason["detail"]) == ("data_error", True)
    assert len(launcher.plans) == 1  # the other two had nothing to begin with


# --- attempts that are lost -------------------------------------------------------------------------------------------


def outcomes(database: Database, job: Job) -> list[str | None]:
    with database.read() as session:
        return [attempt.outcome for attempt in jobs.attempts_of(session, job.id)]


def reason_of_loss(database: Database, job: Job) -> dict[str, Any]:
    with database.read() as session:
        lines = joblog.events_of(session, job.id, joblog.EventFilter(types=("status",)))
    reason: dict[str, Any] = lines[-1].data["reason"]
    return reason


@pytest.mark.parametrize(
    ("exitcode", "said"),
    [(-9, "killed by SIGKILL"), (-11, "killed by SIGSEGV"), (3, "exit code 3"), (255, "gone too"), (None, "gone too")],
)
def test_a_trainer_that_died_is_tried_again_and_the_log_says_how_it_went(
    supervise: Callable[..., Job], database: Database, exitcode: int | None, said: str
) -> None:
    job = supervise(JobSpec.parse({}), Scripted(exitcode=exitcode))
    assert (job.state, outcomes(database, job)) == ("queued", ["trainer_died"])
    assert reason_of_loss(database, job)["code"] == "trainer_died"
    assert said in reason_of_loss(database, job)["detail"]


def test_a_trainer_that_the_kernel_killed_for_its_memory_is_not_tried_again(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OomKills, "lately", lambda self: True)
    job = supervise(JobSpec.parse({}), Scripted(exitcode=-9))
    assert job.status_reason is not None
    assert (job.state, job.status_reason["code"]) == ("failed", "out_of_memory_host")
    other = supervise(JobSpec.parse({}), Scripted(exitcode=-11))  # its own fault: no business of the kernel's
    assert outcomes(database, other) == ["trainer_died"]


class LastWords(Scripted):
    """Its trainers speak and end in the moment between the supervisor's look at the pipe and its look at them."""

    def start(self, plan: dict[str, Any]) -> Any:
        trainer = Scripted().start(plan)
        ours, theirs = Pipe(duplex=False)

        def alive() -> bool:
            for line in self.lines:
                theirs.send(line)
            theirs.close()
            return False

        return SimpleNamespace(pipe=ours, process=trainer.process, end=ours.close, kill=trainer.kill, alive=alive)


def test_a_trainer_that_ends_right_after_its_last_words_is_heard(supervise: Callable[..., Job]) -> None:
    job = supervise(JobSpec(name="t"), LastWords(finished()))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_trainer_without_room_to_write_is_tried_again_later(
    supervise: Callable[..., Job], database: Database
) -> None:
    full = events.Failed(code="disk_full", message="OSError: [Errno 28] No space left on device")
    job = supervise(JobSpec.parse({}), Scripted(full))
    assert (job.state, outcomes(database, job)) == ("queued", ["disk_full"])
    assert job.not_before is not None
    assert reason_of_loss(database, job)["detail"].startswith("the disk is full: ")


def test_a_store_without_room_for_the_results_costs_the_attempt_and_not_the_job(
    supervise: Callable[..., Job], database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ArtifactStore.put
    monkeypatch.setattr(
        ArtifactStore, "put", lambda self, key, path: no_room() if key.endswith("b") else put(self, key, path)
    )
    job = supervise(JobSpec.parse({}), Scripted(finished(), files={"a": "stored", "b": "not"}))
    assert (job.state, outcomes(database, job)) == ("queued", ["disk_full"])
    assert ArtifactStore(settings.artifacts).keys_of(job.id) == [], "half of an attempt's files are strays"


@pytest.mark.parametrize("broken", ["put", "check"])
def test_a_checkpoint_that_cannot_be_stored_whole_costs_neither_the_training_nor_the_one_before(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    right = getattr(ArtifactStore, broken)
    calls = []

    def second_fails(self: ArtifactStore, *arguments: Any) -> Any:
        calls.append(arguments)
        return no_room() if len(calls) == 2 else right(self, *arguments)

    monkeypatch.setattr(ArtifactStore, broken, second_fails)
    spec = JobSpec.parse({"checkpoint": {"keep_last": 1}})
    job = supervise(spec, Checkpointing(1, 2))
    assert (job.state, outcomes(database, job)) == ("queued", ["trainer_died"])
    with database.read() as session:
        (row,) = queue.resume_point(session, queue.Lease(job.id, 1, ""))[0]
        warnings = [event.message for event in joblog.events_of(session, job.id) if event.level == "warning"]
    assert row.step == 1
    assert warnings[0].startswith("the checkpoint at step 2 could not be stored: ")


class Checkpointing(Scripted):
    """Its trainers leave checkpoints, say so, and die."""

    def __init__(self, *steps: int) -> None:
        super().__init__(exitcode=-9)
        self.steps = steps

    def start(self, plan: dict[str, Any]) -> Any:
        folder = Path(plan["folder"], "checkpoints")
        folder.mkdir()
        for step in self.steps:
            (folder / f"{step}.pt").write_text(f"step {step}")
        self.lines = tuple(
            events.CheckpointSaved(path=str(folder / f"{step}.pt"), step=step, epoch=1) for step in self.steps
        )
        return super().start(plan)
