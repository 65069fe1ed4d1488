"""What a supervisor writes for the events of its trainer, here a scripted one. tests/end_to_end/ has the real one."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psutil
import pytest
from sqlalchemy.orm import Session
from support.store import write
from support.transfers import Transfers
from support.waiting import wait_for

from shared import events
from shared.artifacts import ArtifactStore, dataset_folder
from shared.config import Settings
from shared.datasets import dataset_store
from shared.datasets.catalog import DatasetInfo
from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import StoreUnavailable
from shared.jobs import joblog, jobs, queue, stored_bytes
from shared.jobs.states import JobState
from shared.spec.job_spec import GradientCheckSpec, JobSpec, WalkSpec, Work
from worker import checkpoint_uploads, log_buffer, result_uploads, supervisor
from worker.context import WorkerContext
from worker.devices import CPU
from worker.log_buffer import LogBuffer
from worker.oom import OomKills
from worker.plan import Plan
from worker.supervisor import Supervisor

TABLE = {"passed": False, "max_relative_error": 0.5, "dtype": "float64", "parameters": {"0.weight": {}}}


def no_op(*_: object) -> None:
    pass


class Scripted:
    """A launcher whose trainers write some files, send their events and end."""

    def __init__(self, *sent: events.Event, files: dict[str, str] | None = None, exitcode: int | None = 0) -> None:
        self.sent, self.files, self.exitcode = sent, files or {}, exitcode
        self.plans: list[Plan] = []

    def start(self, plan: Plan) -> Any:
        self.plans.append(plan)
        for name, content in self.files.items():
            path = Path(plan.folder, "artifacts", name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        ours, theirs = Pipe(duplex=False)
        for event in self.sent:
            theirs.send(event)
        theirs.close()
        process = SimpleNamespace(exitcode=self.exitcode)
        return SimpleNamespace(pipe=ours, process=process, end=ours.close, kill=no_op, alive=lambda: False)


@pytest.fixture
def database(settings: Settings, new_sqlite: Callable[[str], Database]) -> Iterator[Database]:
    settings.make_state_dir()
    database = new_sqlite(settings.database)
    yield database
    database.close()


@pytest.fixture
def context(settings: Settings, database: Database) -> WorkerContext:
    """Of a worker whose launcher each test brings."""
    store, settings = ArtifactStore(settings.artifacts), settings.model_copy(update={"grace_seconds": 0.5})
    return WorkerContext(settings, database, store, None, 1, threading.Event())  # type: ignore[arg-type]


@pytest.fixture
def supervise(database: Database, context: WorkerContext) -> Callable[..., Job]:
    """supervise(spec, launcher): the job's row after one attempt."""

    def supervise(spec: Work, launcher: Scripted, reproduces: str | None = None) -> Job:
        with database.write() as session:
            jobs.create(session, spec, reproduces)
        with database.write() as session:
            job = queue.claim(session, "w", "cpu", ["auto", "cpu"], 30)
        assert job is not None
        object.__setattr__(context, "launcher", launcher)
        Supervisor(context, job, CPU).run()
        with database.read() as session:
            return jobs.get(session, job.id)

    return supervise


def files_of(database: Database, job: Job) -> list[str]:
    with database.read() as session:
        return [row.name for row in jobs.artifacts_of(session, job.id)]


def outcomes(database: Database, job: Job) -> list[str | None]:
    with database.read() as session:
        return [attempt.outcome for attempt in jobs.attempts_of(session, job.id)]


def last_line(database: Database, job: Job) -> str:
    with database.read() as session:
        return joblog.events_of(session, job.id)[-1].message


def test_a_check_that_passes_succeeds_with_its_table_and_its_file(
    supervise: Callable[..., Job], database: Database
) -> None:
    passed = {"passed": True, "gradient_check": {**TABLE, "passed": True}}
    launcher = Scripted(events.Finished(result=passed), files={"gradient_check.json": "{}"})
    job = supervise(GradientCheckSpec.parse({}), launcher)
    assert (launcher.plans[0].kind, job.state) == ("gradient_check", "succeeded")
    assert job.result is not None
    assert job.result["gradient_check"] == passed["gradient_check"]
    assert files_of(database, job) == ["gradient_check.json"]
    assert last_line(database, job) == "succeeded: gradients by hand agree with autograd's"


@pytest.mark.parametrize(("agrees", "verdict"), [(True, "agree"), (False, "DIFFER")])
def test_a_walk_succeeds_with_its_file_and_logs_whether_both_gradients_agree(
    supervise: Callable[..., Job], database: Database, agrees: bool, verdict: str
) -> None:
    result = {"agrees": agrees, "stages": 13, "max_relative_difference": 2e-16}
    launcher = Scripted(events.Finished(result=result), files={"walk.json": "{}"})
    job = supervise(WalkSpec.parse({}), launcher)
    assert (launcher.plans[0].kind, job.state) == ("walk", "succeeded")
    assert files_of(database, job) == ["walk.json"]
    assert last_line(database, job) == f"succeeded: 13 stages, and both ways {verdict} (at most 2e-16 apart)"


@pytest.mark.parametrize("spec", [GradientCheckSpec.parse({}), JobSpec.parse({})], ids=lambda spec: spec.kind)
def test_a_check_that_fails_keeps_its_measurements(
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


def test_any_other_failure_stores_no_partial_file(supervise: Callable[..., Job], database: Database) -> None:
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


def test_a_repeated_run_is_compared_with_its_original(supervise: Callable[..., Job]) -> None:
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


def test_weights_that_have_seen_the_validation_split_are_told_in_the_log(
    supervise: Callable[..., Job], database: Database
) -> None:
    origin = supervise(JobSpec.parse({"validation": "test"}), Scripted(finished(), files={"model.safetensors": "w"}))
    job = supervise(JobSpec.parse({"init_from": {"job": origin.id}}), Scripted(finished()))
    with database.read() as session:
        (line,) = [line for line in joblog.events_of(session, job.id) if line.level == "warning"]
    assert f"{origin.id} was trained on all of the images that this job holds out" in line.message


def test_initial_weights_are_fetched_and_damage_is_detected(
    supervise: Callable[..., Job], settings: Settings, database: Database
) -> None:
    origin = supervise(JobSpec.parse({}), Scripted(finished(), files={"model.safetensors": "weights"}))
    spec = JobSpec.parse({"init_from": {"job": origin.id}})
    launcher = Scripted(finished())
    assert supervise(spec, launcher).state == JobState.SUCCEEDED
    assert Path(launcher.plans[0].init_from or "").name == "init_from.safetensors"
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
    assert len(launcher.plans) == 1  # the other two attempts started no trainer


@pytest.fixture
def remote(context: WorkerContext) -> Iterator[ArtifactStore]:
    """A store of the worker that is not a local folder."""
    store = ArtifactStore(f"memory:///{uuid4().hex}")
    object.__setattr__(context, "store", store)
    context.storage.store = store
    yield store
    if store.fs.exists(store.root):
        store.fs.rm(store.root, recursive=True)


@pytest.mark.parametrize(("damaged", "state"), [(1, "succeeded"), (2, "failed")])
def test_initial_weights_are_fetched_again_before_they_count_as_damaged(
    supervise: Callable[..., Job], remote: ArtifactStore, monkeypatch: pytest.MonkeyPatch, damaged: int, state: str
) -> None:
    origin = supervise(JobSpec.parse({}), Scripted(finished(), files={"model.safetensors": "weights"}))
    transfers = Transfers(monkeypatch, damaged)
    job = supervise(JobSpec.parse({"init_from": {"job": origin.id}}), Scripted(finished()))
    assert (job.state, transfers.count) == (state, 2)


@pytest.mark.parametrize(("damaged", "resumed"), [(0, "2.pt"), (1, "2.pt"), (2, "1.pt")])
def test_a_checkpoint_is_fetched_again_before_the_one_before_is_taken(
    supervise: Callable[..., Job],
    context: WorkerContext,
    database: Database,
    remote: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    damaged: int,
    resumed: str,
) -> None:
    job = supervise(JobSpec.parse({}), Checkpointing(1, 2))
    assert steps_of(database, job) == [2, 1]
    Transfers(monkeypatch, damaged)
    with database.write() as session:
        again = queue.claim(session, "w", "cpu", ["auto", "cpu"], 30)
    assert again is not None
    launcher = Resumes(finished())
    object.__setattr__(context, "launcher", launcher)
    Supervisor(context, again, CPU).run()
    assert launcher.content == f"step {resumed[0]}"
    assert len(warnings(database, job)) == (damaged == 2)


@pytest.mark.parametrize(("damaged", "state"), [(1, "succeeded"), (2, "queued")])
def test_a_dataset_that_is_damaged_on_its_way_costs_no_attempt(
    supervise: Callable[..., Job],
    context: WorkerContext,
    database: Database,
    remote: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    damaged: int,
    state: str,
) -> None:
    dataset, key = f"ds_{'1' * 32}", dataset_folder(f"ds_{'1' * 32}")
    (tmp_path / "a.npy").write_bytes(b"images")
    file = remote.put(f"{key}/a.npy", tmp_path / "a.npy")
    info = DatasetInfo("pets", "", (1, 6, 6), ("cats", "dogs"), 9, 1, source="upload")
    with database.write() as session:
        dataset_store.add(session, dataset, info, "f" * 64, {}, key, [file])
    Transfers(monkeypatch, damaged)
    spec = JobSpec.parse({"max_attempts": 1}).model_copy(update={"dataset": dataset})
    job = supervise(spec, Scripted(finished()))
    assert (job.state, job.failures) == (state, 0)
    assert outcomes(database, job) == ["succeeded" if damaged == 1 else "store_unavailable"]
    assert context.storage.outage == (None if damaged == 1 else "store_unavailable")


class Resumes(Scripted):
    """`content` is that of the checkpoint that its trainer resumes from."""

    def start(self, plan: Plan) -> Any:
        assert plan.resume is not None
        self.content = Path(plan.resume).read_text()
        return super().start(plan)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_checkpoint_that_is_read_back_damaged_is_read_again(
    supervise: Callable[..., Job],
    database: Database,
    remote: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    damaged: int,
) -> None:
    patch = partial(Transfers, monkeypatch, damaged)
    job = supervise(JobSpec.parse({}), Checkpointing(1, 2, before_last=patch))
    assert steps_of(database, job) == ([2, 1] if damaged == 1 else [1])


# --- attempts that are stopped ----------------------------------------------------------------------------------------


class Stoppable(Scripted):
    """Its trainers run until they are asked to stop. `changes` to the job: one at the start, the others at the stop."""

    def __init__(self, database: Database, *changes: Callable[[Session, str], Job]) -> None:
        super().__init__()
        self.database, self.changes = database, changes

    def start(self, plan: Plan) -> Any:
        job_id = Path(plan.folder).name.rpartition("-")[0]
        ours, theirs = Pipe(duplex=False)
        theirs.send(events.Progress(epoch=1, epochs=2, step=7, total_steps=9, examples_per_second=1.0))
        write(self.database, self.changes[0], job_id)

        def request_stop() -> None:
            for change in self.changes[1:]:
                write(self.database, change, job_id)
            theirs.send(events.Stopped(step=7))
            theirs.close()

        process, calls = SimpleNamespace(exitcode=0), {"request_stop": request_stop, "kill": no_op, "end": ours.close}
        return SimpleNamespace(pipe=ours, process=process, alive=lambda: True, **calls)


@pytest.mark.parametrize("late", [[], [jobs.request_cancel]], ids=["cancel", "pause, then cancel"])
def test_a_cancelled_job_keeps_its_progress(
    supervise: Callable[..., Job], database: Database, late: list[Callable[[Session, str], Job]]
) -> None:
    job = supervise(JobSpec.parse({}), Stoppable(database, jobs.request_pause if late else jobs.request_cancel, *late))
    assert job.status_reason == {"code": "cancelled_by_user", "detail": "cancelled on request"}
    assert (job.state, outcomes(database, job)) == ("cancelled", ["cancelled"])
    assert last_line(database, job) == "cancelled on request"
    assert job.progress is not None
    assert job.progress["step"] == 7


def test_a_job_is_paused_or_queued_again_if_the_request_was_withdrawn(
    supervise: Callable[..., Job], database: Database
) -> None:
    withdrawn = supervise(JobSpec.parse({}), Stoppable(database, jobs.request_pause, jobs.resume))
    assert (withdrawn.state, outcomes(database, withdrawn)) == ("queued", ["paused"])
    assert last_line(database, withdrawn) == "queued again: pause request withdrawn"
    write(database, jobs.request_cancel, withdrawn.id)
    paused = supervise(JobSpec.parse({}), Stoppable(database, jobs.request_pause))
    assert (paused.state, outcomes(database, paused)) == ("paused", ["paused"])


# --- attempts that are lost -------------------------------------------------------------------------------------------


def reason_of_loss(database: Database, job: Job) -> dict[str, Any]:
    with database.read() as session:
        lines = joblog.events_of(session, job.id, joblog.EventFilter(types=("status",)))
    reason: dict[str, Any] = lines[-1].data["reason"]
    return reason


@pytest.mark.parametrize(
    ("exitcode", "said"),
    [(-9, "killed by SIGKILL"), (-11, "killed by SIGSEGV"), (3, "exit code 3"), (255, "gone too"), (None, "gone too")],
)
def test_a_trainer_that_died_is_retried_and_the_log_says_how_it_ended(
    supervise: Callable[..., Job], database: Database, exitcode: int | None, said: str
) -> None:
    job = supervise(JobSpec.parse({}), Scripted(exitcode=exitcode))
    assert (job.state, outcomes(database, job)) == ("queued", ["trainer_died"])
    assert reason_of_loss(database, job)["code"] == "trainer_died"
    assert said in reason_of_loss(database, job)["detail"]


def test_an_oom_kill_is_not_retried(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OomKills, "recently", lambda self: True)
    job = supervise(JobSpec.parse({}), Scripted(exitcode=-9))
    assert job.status_reason is not None
    assert (job.state, job.status_reason["code"]) == ("failed", "out_of_memory_host")
    other = supervise(JobSpec.parse({}), Scripted(exitcode=-11))  # another signal: not an OOM kill
    assert outcomes(database, other) == ["trainer_died"]


class EndsAfterPoll(Scripted):
    """Its trainers send their events and end between the supervisor's poll of the pipe and its liveness check."""

    def start(self, plan: Plan) -> Any:
        trainer = Scripted().start(plan)
        ours, theirs = Pipe(duplex=False)

        def alive() -> bool:
            for event in self.sent:
                theirs.send(event)
            theirs.close()
            return False

        return SimpleNamespace(pipe=ours, process=trainer.process, end=ours.close, kill=trainer.kill, alive=alive)


def test_events_sent_right_before_the_end_are_received(supervise: Callable[..., Job]) -> None:
    job = supervise(JobSpec(name="t"), EndsAfterPoll(finished()))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


def test_a_trainer_on_a_full_disk_is_retried_and_that_costs_no_attempt(
    supervise: Callable[..., Job], database: Database, context: WorkerContext
) -> None:
    full = events.Failed(code="disk_full", message="OSError: [Errno 28] No space left on device")
    job = supervise(JobSpec.parse({"max_attempts": 1}), Scripted(full))
    assert (job.state, job.failures, outcomes(database, job)) == ("queued", 0, ["disk_full"])
    assert job.not_before is not None
    assert reason_of_loss(database, job)["detail"].startswith("the disk is full: ")
    assert context.storage.outage == "disk_full"


BROKEN = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN)


@pytest.mark.parametrize("number", BROKEN)
def test_a_run_folder_that_cannot_be_made_costs_no_attempt(
    supervise: Callable[..., Job],
    database: Database,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def broken(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", broken)
        job = supervise(JobSpec.parse({"max_attempts": 1}), Scripted(finished()))
    assert (job.state, job.failures, outcomes(database, job)) == ("queued", 0, ["disk_full"])
    detail = reason_of_loss(database, job)["detail"]
    assert os.strerror(number) in detail
    assert str(context.settings.runs_dir) in detail
    assert context.storage.outage == "disk_full"


@pytest.mark.parametrize("number", BROKEN)
def test_a_checkpoint_that_cannot_be_read_for_storing_is_left_out(
    supervise: Callable[..., Job],
    database: Database,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    patch = partial(monkeypatch.setattr, ArtifactStore, "put", broken)
    job = supervise(JobSpec.parse({}), Checkpointing(1, 2, before_last=patch))
    assert (job.state, outcomes(database, job)) == ("queued", ["trainer_died"])
    assert steps_of(database, job) == [1]
    (warning,) = warnings(database, job)
    assert warning.startswith("the checkpoint at step 2 could not be stored: the disk ")
    assert context.storage.outage == "disk_full"


@pytest.mark.parametrize("folder", [None, "data"])
def test_the_folder_that_took_no_file_is_probed_until_it_does(
    supervise: Callable[..., Job], context: WorkerContext, tmp_path: Path, folder: str | None
) -> None:
    data = {} if folder is None else {"folder": str(tmp_path / folder)}
    supervise(JobSpec.parse({}), Scripted(events.Failed(code="disk_full", message="full", data=data)))
    assert context.storage.probe()
    assert (tmp_path / "data").is_dir() == (folder is not None)


def test_a_mirror_that_is_away_costs_no_attempt_and_keeps_no_other_job_waiting(
    supervise: Callable[..., Job], database: Database, context: WorkerContext
) -> None:
    away = events.Failed(code="store_unavailable", message="the mirror of kmnist is not available")
    job = supervise(JobSpec.parse({"max_attempts": 1}), Scripted(away))
    assert (job.state, job.failures, outcomes(database, job)) == ("queued", 0, ["store_unavailable"])
    assert reason_of_loss(database, job)["detail"] == away.message
    assert context.storage.outage is None


class Away:
    """Makes the store's `method` fail for as long as `failures` lasts; `calls` are the keys that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, failures: int = 1 << 30) -> None:
        right = getattr(ArtifactStore, method)
        self.failures, self.calls = failures, []  # type: ignore[var-annotated]

        def call(store: ArtifactStore, *arguments: Any) -> Any:
            self.calls.append(arguments[0])
            if self.failures > 0:
                self.failures -= 1
                raise StoreUnavailable("the store is away")
            return right(store, *arguments)

        monkeypatch.setattr(ArtifactStore, method, call)


def test_results_wait_for_a_store_that_is_away_and_the_job_succeeds(
    supervise: Callable[..., Job], database: Database, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_uploads, "RETRY_SECONDS", 0.01)
    away = Away(monkeypatch, "put", failures=3)
    job = supervise(JobSpec.parse({"max_attempts": 1}), Scripted(finished(), files={"a": "first", "b": "second"}))
    assert (job.state, job.attempt, files_of(database, job)) == ("succeeded", 1, ["a", "b"])
    assert len(away.calls) == 5
    assert len(warnings(database, job)) == 1
    assert "wait for the artifact store" in warnings(database, job)[0]
    assert context.storage.outage == "store_unavailable", "other jobs are claimed after a probe"


@pytest.mark.parametrize(
    ("asks", "state", "outcome"),
    [(jobs.request_cancel, "cancelled", "cancelled"), (jobs.request_pause, "paused", "paused")],
)
def test_a_job_whose_results_wait_for_the_store_can_be_stopped(
    supervise: Callable[..., Job],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    asks: Callable[[Session, str], Job],
    state: str,
    outcome: str,
) -> None:
    monkeypatch.setattr(result_uploads, "RETRY_SECONDS", 0.01)
    Away(monkeypatch, "put")

    class Asks(Scripted):
        def start(self, plan: Plan) -> Any:
            trainer = super().start(plan)
            write(database, asks, Path(plan.folder).name.rpartition("-")[0])
            return trainer

    job = supervise(JobSpec.parse({}), Asks(finished(), files={"a": "first"}))
    assert (job.state, outcomes(database, job)) == (state, [outcome])


@pytest.mark.parametrize("method", ["get", "put"])
def test_a_store_that_is_away_at_the_start_costs_no_attempt(
    supervise: Callable[..., Job],
    database: Database,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    origin = supervise(JobSpec.parse({}), Scripted(finished(), files={"model.safetensors": "w"}))
    Away(monkeypatch, "get")
    job = supervise(JobSpec.parse({"max_attempts": 1, "init_from": {"job": origin.id}}), Scripted(finished()))
    assert (job.state, job.failures, outcomes(database, job)) == ("queued", 0, ["store_unavailable"])
    assert context.storage.outage == "store_unavailable"


@pytest.mark.parametrize("broken", ["put", "check"])
def test_a_checkpoint_that_cannot_be_stored_fails_neither_the_training_nor_the_one_before(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    away = Away(monkeypatch, broken, failures=0)
    spec = JobSpec.parse({"checkpoint": {"keep_last": 1}})
    job = supervise(spec, Checkpointing(1, 2, before_last=lambda: setattr(away, "failures", 1 << 30)))
    assert (job.state, outcomes(database, job)) == ("queued", ["trainer_died"])
    assert steps_of(database, job) == [1]
    (warning,) = warnings(database, job)
    assert warning.startswith("the checkpoint at step 2 could not be stored: ")


@pytest.mark.parametrize("failures", [2, 1 << 30])
def test_the_last_checkpoint_of_a_paused_job_is_retried_for_the_grace_period(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    monkeypatch.setattr(checkpoint_uploads, "RETRY_SECONDS", 0.01)
    Away(monkeypatch, "put", failures)
    job = supervise(JobSpec.parse({}), PausedWithACheckpoint(database))
    assert (job.state, outcomes(database, job)) == ("paused", ["paused"])
    assert steps_of(database, job) == ([7] if failures == 2 else [])
    assert len(warnings(database, job)) == 1


class PausedWithACheckpoint(Scripted):
    """Its trainers are paused at once, and write a checkpoint then."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database

    def start(self, plan: Plan) -> Any:
        ours, theirs = Pipe(duplex=False)
        write(self.database, jobs.request_pause, Path(plan.folder).name.rpartition("-")[0])

        def request_stop() -> None:
            path = Path(plan.folder, "7.pt")
            path.write_text("step 7")
            theirs.send(events.CheckpointSaved(path=str(path), step=7, epoch=1))
            theirs.send(events.Stopped(step=7))
            theirs.close()

        calls = {"request_stop": request_stop, "kill": no_op, "end": ours.close}
        return SimpleNamespace(pipe=ours, process=SimpleNamespace(exitcode=0), alive=lambda: True, **calls)


def warnings(database: Database, job: Job) -> list[str]:
    with database.read() as session:
        lines = joblog.events_of(session, job.id)
    return [line.message for line in lines if line.level == "warning" and line.type != "status"]


def steps_of(database: Database, job: Job) -> list[int]:
    """The steps of the checkpoints that have a row."""
    with database.read() as session:
        return [row.step for row in queue.resume_point(session, queue.Lease(job.id, 1, ""))[0]]


@pytest.mark.parametrize(
    ("limit", "steps", "kept"),
    [
        (10_000, 5, [4, 5]),  # two, as the spec says
        (2_000, 5, [5]),  # room for one: the newest replaces the one before
        (1_000, 5, []),  # room for none
    ],
)
def test_an_owner_who_may_store_no_more_keeps_the_newest_checkpoint_if_one_fits(
    supervise: Callable[..., Job],
    settings: Settings,
    context: WorkerContext,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    steps: int,
    kept: list[int],
) -> None:
    """Checkpoints have 1500 bytes each; the rows and the log of the job do not count here."""
    monkeypatch.setattr("shared.jobs.stored_bytes.LINE_BYTES", 0)
    monkeypatch.setattr("shared.jobs.stored_bytes.JOB_BYTES", 0)
    object.__setattr__(context.settings, "max_owner_bytes", limit)
    job = supervise(JobSpec(), Checkpointing(*range(1, steps + 1), size=1500))
    with database.read() as session:
        rows = queue.resume_point(session, queue.Lease(job.id, 1, ""))[0]
        warnings = [event.message for event in joblog.events_of(session, job.id) if event.level == "warning"]
        used = stored_bytes.used_by(session, None)
    assert sorted(row.step for row in rows) == kept
    assert used["checkpoints"] == 1500 * len(kept) <= limit
    assert sorted(path.name for path in settings.state_dir.glob("artifacts/**/*") if path.is_file()) == [
        row.key.rpartition("/")[2] for row in sorted(rows, key=lambda row: row.key)
    ]
    assert any("GRADQ_MAX_OWNER_BYTES" in message for message in warnings) == (kept != [4, 5])


def test_the_files_of_a_job_that_succeeded_are_stored_whatever_its_owner_stores(
    supervise: Callable[..., Job], settings: Settings, context: WorkerContext, database: Database
) -> None:
    object.__setattr__(context.settings, "max_owner_bytes", 1)
    job = supervise(JobSpec(), Scripted(events.Finished(result={"test_accuracy": 1.0}), files={"a.json": "{}"}))
    assert job.state == JobState.SUCCEEDED
    with database.read() as session:
        assert [row.name for row in jobs.artifacts_of(session, job.id)] == ["a.json"]
        assert stored_bytes.used_by(session, None)["artifacts"] == 2


class Checkpointing(Scripted):
    """Its trainers write checkpoints, each once the one before has been stored, and are killed. `before_last` is called
    before the last one."""

    def __init__(self, *steps: int, before_last: Callable[[], object] = no_op, size: int = 0) -> None:
        super().__init__(exitcode=-9)
        self.steps, self.before_last, self.size = steps, before_last, size

    def start(self, plan: Plan) -> Any:
        folder = Path(plan.folder, "checkpoints")
        folder.mkdir()
        ours, theirs = Pipe(duplex=False)

        def train() -> None:
            for step in self.steps:
                if step == self.steps[-1]:
                    self.before_last()
                path = folder / f"{step}.pt"
                path.write_text(f"step {step}".ljust(self.size))
                theirs.send(events.CheckpointSaved(path=str(path), step=step, epoch=1))
                if step != self.steps[-1]:
                    wait_for(lambda path=path: not path.exists(), 30, "the checkpoint to be stored", every=0.005)
            theirs.close()

        thread = threading.Thread(target=train)
        thread.start()
        process = SimpleNamespace(exitcode=self.exitcode)
        return SimpleNamespace(pipe=ours, process=process, end=ours.close, kill=no_op, alive=thread.is_alive)


# --- a supervisor always listens --------------------------------------------------------------------------------------


class Flood(Scripted):
    """Its trainers send checkpoints as fast as the pipe takes them, until they are asked to stop."""

    def __init__(self, database: Database, asks: Callable[[Session, str], Job]) -> None:
        super().__init__()
        self.database, self.asks, self.sent_steps = database, asks, 0

    def start(self, plan: Plan) -> Any:
        job_id, folder = Path(plan.folder).name.rpartition("-")[0], Path(plan.folder, "checkpoints")
        folder.mkdir()
        ours, theirs = Pipe(duplex=False)
        stop = threading.Event()

        def train() -> None:
            while not stop.is_set():
                self.sent_steps += 1
                path = folder / f"{self.sent_steps}.pt"
                path.write_text("x")
                theirs.send(events.CheckpointSaved(path=str(path), step=self.sent_steps, epoch=1))
                if self.sent_steps == 20:
                    write(self.database, self.asks, job_id)
            theirs.send(events.Stopped(step=self.sent_steps))
            theirs.close()

        thread = threading.Thread(target=train)
        thread.start()
        calls = {"request_stop": stop.set, "kill": no_op, "end": lambda: (stop.set(), ours.close())}
        return SimpleNamespace(pipe=ours, process=SimpleNamespace(exitcode=0), alive=thread.is_alive, **calls)


@pytest.mark.parametrize("put_seconds", [0.0, 0.3])
def test_a_flood_of_checkpoints_into_a_slow_store_hides_no_request_and_floods_no_table(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch, put_seconds: float
) -> None:
    put = ArtifactStore.put
    stored: list[str] = []

    def slow(store: ArtifactStore, key: str, path: Path) -> Any:
        stored.append(key)
        time.sleep(put_seconds)
        return put(store, key, path)

    monkeypatch.setattr(ArtifactStore, "put", slow)
    flood = Flood(database, jobs.request_cancel)
    job = supervise(JobSpec.parse({}), flood)
    assert (job.state, outcomes(database, job)) == ("cancelled", ["cancelled"])
    assert stored, "none was stored"
    if put_seconds:
        assert len(stored) < flood.sent_steps / 3, "checkpoints queue up"
    assert len(steps_of(database, job)) <= 2


def test_a_deadline_holds_under_a_flood_of_checkpoints(supervise: Callable[..., Job], database: Database) -> None:
    flood = Flood(database, jobs.get)  # nobody asks it to stop
    job = supervise(JobSpec.parse({"max_seconds": 0.5}), flood)
    assert job.status_reason is not None
    assert (job.state, job.status_reason["code"]) == ("failed", "deadline_exceeded")


class Chatty(Scripted):
    """Its trainers send more lines than the pipe takes, from a thread, until they are asked to stop or are done."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines, self.all_sent = lines, threading.Event()
        self.may_send: Callable[[], object] = no_op

    def start(self, plan: Plan) -> Any:
        ours, theirs = Pipe(duplex=False)
        stop = threading.Event()

        def train() -> None:
            self.may_send()
            for step in range(1, self.lines + 1):
                if stop.is_set():
                    theirs.send(events.Stopped(step=step))
                    break
                theirs.send(events.Metric(series="batch", step=step, epoch=1, values={"batch_loss": 1.0}))
            else:
                theirs.send(finished())
            self.all_sent.set()
            theirs.close()

        thread = threading.Thread(target=train, daemon=True)
        thread.start()
        calls = {"request_stop": stop.set, "kill": no_op, "end": lambda: (stop.set(), ours.close())}
        return SimpleNamespace(pipe=ours, process=SimpleNamespace(exitcode=0), alive=thread.is_alive, **calls)


def test_a_database_that_hangs_does_not_keep_the_supervisor_from_its_trainer(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, flush, hung, held = Chatty(5000), LogBuffer.flush, threading.Event(), []
    launcher.may_send = lambda: hung.wait(30)

    def hangs(buffer: LogBuffer) -> None:
        hung.set()
        if not launcher.all_sent.is_set():  # the trainer would wait with some 500 lines in its pipe
            held.append(launcher.all_sent.wait(30))
        flush(buffer)

    monkeypatch.setattr(LogBuffer, "flush", hangs)
    job = supervise(JobSpec.parse({}), launcher)
    assert (job.state, held) == ("succeeded", [True])
    with database.read() as session:
        assert len(list(joblog.points_of(session, job.id))) == 5000


def test_a_full_log_buffer_keeps_no_worker_from_ending(
    supervise: Callable[..., Job], database: Database, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do more lines wait than may, of a trainer that always has another one."""
    monkeypatch.setattr(log_buffer, "MOST_LINES", 100)
    monkeypatch.setattr(LogBuffer, "flush", no_op)  # the database is away
    append, waiting = LogBuffer.append, [0]

    def counted(buffer: LogBuffer, line: joblog.Line) -> None:
        append(buffer, line)
        if not context.draining.is_set():
            waiting.append(len(buffer._lines))

    monkeypatch.setattr(LogBuffer, "append", counted)
    launcher = Chatty(100_000)
    timer = threading.Timer(1.0, context.draining.set)
    launcher.may_send = timer.start
    job = supervise(JobSpec.parse({}), launcher)
    assert (job.state, outcomes(database, job)) == ("queued", ["drained"])
    assert max(waiting) == 100


# --- a supervisor heeds requests while files are fetched and stored ---------------------------------------------------


class Stuck:
    """Makes calls of the store's `method` wait until `go_on`. `at_first` is called in the first one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, at_first: Callable[[Path], object]) -> None:
        self.go_on, self.ends, self.calls = threading.Event(), threading.Event(), 0
        right = getattr(ArtifactStore, method)

        def call(store: ArtifactStore, key: str, path: Path) -> Any:
            self.calls += 1
            if self.calls == 1:
                at_first(path)
            if not self.go_on.wait(30):
                self.ends.set()  # the supervisor waited for it
            return right(store, key, path)

        monkeypatch.setattr(ArtifactStore, method, call)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CLOSE_SECONDS", 0.0)
    for module in (result_uploads, supervisor):
        monkeypatch.setattr(module, "HURRY_SECONDS", 0.1)
        monkeypatch.setattr(module, "TICK_SECONDS", 0.02)


def ask(context: WorkerContext, how: str, job_id: str) -> None:
    """Ask a job to stop, each in its way."""
    database = context.database
    if how == "drain":
        context.draining.set()
    elif how == "lose":
        with database.read() as session:
            lease = queue.lease_of(jobs.get(session, job_id))
        write(database, queue.mark_lost, lease, "its lease ran out")
    elif how != "deadline":
        write(database, jobs.request_cancel if how == "cancel" else jobs.request_pause, job_id)


def handed_over(context: WorkerContext) -> list[str]:
    """The jobs whose files the sweep is to look for, and which it was not told before."""
    found = []
    while not context.lost_attempts.empty():
        found.append(context.lost_attempts.get()[0])
    return found


ENDS = {
    "cancel": ("cancelled", "cancelled", 0),
    "pause": ("paused", "paused", 0),
    "drain": ("queued", "drained", 0),
    "lose": ("queued", "worker_lost", 1),
    "deadline": ("failed", "failed", 0),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ENDS)
def test_a_request_to_stop_is_heeded_while_inputs_are_fetched(
    supervise: Callable[..., Job],
    database: Database,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    origin = supervise(JobSpec.parse({}), Scripted(finished(), files={"model.safetensors": "w"}))
    folders: list[Path] = []

    def at_first(path: Path) -> None:
        folders.append(path.parent)
        ask(context, how, path.parent.name.rpartition("-")[0])

    stuck, launcher = Stuck(monkeypatch, "get", at_first), Scripted(finished())
    seconds = 0.5 if how == "deadline" else 60
    job = supervise(JobSpec.parse({"init_from": {"job": origin.id}, "max_seconds": seconds}), launcher)
    state, outcome, failures = ENDS[how]
    assert (job.state, outcomes(database, job), job.failures) == (state, [outcome], failures)
    assert (launcher.plans, stuck.ends.is_set(), context.running) == ([], False, set())
    if how == "deadline":
        assert (job.status_reason or {})["code"] == "deadline_exceeded"
    assert job.id not in handed_over(context), "its files are looked for before the transfer has ended"
    stuck.go_on.set()
    wait_for(lambda: job.id in handed_over(context), 30, "the end of the transfer")
    assert not folders[0].exists(), "what was fetched late stays"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["cancel", "pause", "drain", "lose"])
def test_a_request_to_stop_is_heeded_while_a_result_is_stored(
    supervise: Callable[..., Job],
    database: Database,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    stuck = Stuck(monkeypatch, "put", lambda path: ask(context, how, path.parents[1].name.rpartition("-")[0]))
    job = supervise(JobSpec.parse({}), Scripted(finished(), files={"a": "first", "b": "second"}))
    state, outcome, failures = ENDS[how]
    assert (job.state, outcomes(database, job), job.failures) == (state, [outcome], failures)
    assert (stuck.calls, stuck.ends.is_set(), files_of(database, job)) == (1, False, [])
    stuck.go_on.set()
    assert context.lost_attempts.get(timeout=30) == (job.id, 1)
    assert stuck.calls == 1, "the thread that is left behind goes on storing"


@pytest.mark.parametrize("how", ["cancel", "pause", "drain"])
def test_a_store_that_works_takes_the_results_of_a_job_that_is_asked_to_stop(
    supervise: Callable[..., Job],
    database: Database,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    stuck = Stuck(monkeypatch, "put", lambda path: ask(context, how, path.parents[1].name.rpartition("-")[0]))
    stuck.go_on.set()
    job = supervise(JobSpec.parse({}), Scripted(finished(), files={"a": "first", "b": "second"}))
    assert (job.state, files_of(database, job)) == ("succeeded", ["a", "b"])


def test_a_slot_lists_no_files_of_a_store_that_is_no_folder(
    supervise: Callable[..., Job], context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing takes minutes if the store has just gone away."""
    object.__setattr__(context, "store", ArtifactStore(f"memory://{id(context)}"))
    monkeypatch.setattr(ArtifactStore, "keys_of", no_op)
    job = supervise(JobSpec.parse({}), Scripted(finished(), files={"a": "first"}))
    assert job.state == "succeeded"
    assert context.lost_attempts.get(timeout=30) == (job.id, 1)


class Frozen(Scripted):
    """Its trainers freeze in the middle of an event, until they are killed."""

    def __init__(self, asks: Callable[[str], object]) -> None:
        super().__init__(exitcode=-9)
        self.asks, self.killed, self.late = asks, threading.Event(), threading.Event()

    def start(self, plan: Plan) -> Any:
        ours, theirs = Pipe(duplex=False)
        os.write(theirs.fileno(), struct.pack("!i", 100_000) + b"the first of 100 000 bytes")
        self.asks(Path(plan.folder).name.rpartition("-")[0])

        def end() -> None:
            if not self.killed.wait(30):
                self.late.set()  # the supervisor waits for the rest
            theirs.close()

        threading.Thread(target=end, daemon=True).start()
        calls = {"request_stop": no_op, "kill": self.killed.set, "end": ours.close}
        process = SimpleNamespace(exitcode=-9)
        return SimpleNamespace(pipe=ours, process=process, alive=lambda: not self.killed.is_set(), **calls)


@pytest.mark.parametrize("how", ENDS)
def test_a_trainer_that_is_frozen_in_the_middle_of_an_event_can_be_stopped(
    supervise: Callable[..., Job], database: Database, context: WorkerContext, how: str
) -> None:
    launcher = Frozen(lambda job_id: ask(context, how, job_id))
    job = supervise(JobSpec.parse({"max_seconds": 0.2 if how == "deadline" else 60}), launcher)
    state, outcome, failures = ENDS[how]
    assert (job.state, outcomes(database, job), job.failures) == (state, [outcome], failures)
    assert launcher.killed.is_set()
    assert not launcher.late.is_set()


# --- attempts that cannot be started ----------------------------------------------------------------------------------


class NoTrainers(Scripted):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def start(self, plan: Plan) -> Any:
        raise self.error


NO_THREAD = RuntimeError("can't start new thread")
NO_FILE = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("launcher", BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")),
        ("launcher", NO_FILE),
        ("launcher", OSError(errno.ENOMEM, "Cannot allocate memory")),
        ("launcher", FileNotFoundError(errno.ENOENT, "No such file or directory")),
        ("launcher", EOFError()),
        ("launcher", NO_THREAD),
        ("launcher", psutil.NoSuchProcess(1)),
        ("worker.lease.LeaseKeeper.start", NO_THREAD),
        ("worker.supervisor.TransferThread.start", NO_THREAD),
        ("worker.supervisor.OomKills", NO_FILE),
        ("worker.supervisor.Inputs.fetch", NO_FILE),
        ("worker.supervisor.Inputs.fetch", NO_THREAD),
    ],
    ids=repr,
)
def test_a_job_that_its_worker_cannot_start_is_handed_back_and_costs_no_attempt(
    supervise: Callable[..., Job],
    database: Database,
    context: WorkerContext,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
) -> None:
    def fails(*_: object) -> None:
        raise error

    if where != "launcher":
        monkeypatch.setattr(where, fails)
    monkeypatch.setattr("worker.start_failures.time", SimpleNamespace(monotonic=lambda: 1000.0))  # the pause has no end
    job = supervise(JobSpec.parse({"max_attempts": 1}), NoTrainers(error))
    assert (job.state, job.failures, outcomes(database, job)) == ("queued", 0, ["drained"])
    assert last_line(database, job).startswith("handed back: the worker could not start it: ")
    assert str(error) in last_line(database, job)
    assert context.start_failures.pausing
    assert context.running == set()


def test_an_error_of_gradq_itself_before_the_start_counts(supervise: Callable[..., Job], database: Database) -> None:
    """Or a job that no worker can start would be claimed for ever."""
    job = supervise(JobSpec.parse({}), NoTrainers(TypeError("cannot pickle")))
    assert (job.state, job.failures, outcomes(database, job)) == ("queued", 1, ["internal_error"])


def test_a_run_folder_that_became_read_only_costs_a_checkpoint_and_not_the_attempt(
    supervise: Callable[..., Job], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(_: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    class Twice(Scripted):
        def start(self, plan: Plan) -> Any:
            for step in (1, 2):
                Path(plan.folder, f"{step}.pt").write_text("x")
            self.sent = tuple(
                events.CheckpointSaved(path=str(Path(plan.folder, f"{step}.pt")), step=step, epoch=1) for step in (1, 2)
            )
            self.sent += (finished(),)
            monkeypatch.setattr(Path, "unlink", read_only)
            return super().start(plan)

    job = supervise(JobSpec.parse({}), Twice())
    monkeypatch.undo()
    assert (job.state, outcomes(database, job)) == ("succeeded", ["succeeded"])
