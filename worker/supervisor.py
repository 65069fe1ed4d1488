"""One running job: start the trainer process, pass its events on, watch the clock and the wishes, write the outcome.

Runs in one thread. The trainer knows no database; this is the only writer for its job, and every write names the lease.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from sqlalchemy.orm import Session

from shared import events
from shared.artifacts import MODEL, ArtifactStore, StoredFile, artifact_key, checkpoint_key, sha256_of
from shared.config import Settings
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.db.tables import CheckpointRow, Job
from shared.errors import DatabaseAway, DataError, LeaseLost, NotFound, TrainingError
from shared.jobs import joblog, jobs, queue
from shared.jobs.states import JobState
from worker import reproduction
from worker.dataset_files import local_folder
from worker.devices import Slot
from worker.disks import disk_is_full
from worker.launcher import Launcher, Trainer
from worker.lease import LeaseKeeper
from worker.oom import OomKills
from worker.orphaned_files import sweep_strays

TICK_SECONDS = 0.25
FLUSH_SECONDS = 0.5  # lines are written in batches this far apart
RETRY_SECONDS = 0.5  # between two tries at a database that is away
OUT_OF_MEMORY = (
    "the host ran out of memory and its kernel ended the trainer; "
    "try a smaller batch_size or net, or fewer slots on that worker"
)

log = structlog.get_logger()
T = TypeVar("T")


class StopReason(StrEnum):
    """Why a trainer was asked to stop."""

    CANCEL = "cancel"
    PAUSE = "pause"
    DEADLINE = "deadline"
    DRAIN = "drain"
    LOST = "lost"


@dataclass(frozen=True)
class WorkerContext:
    """What all supervisors of one worker share."""

    settings: Settings
    database: Database
    store: ArtifactStore
    launcher: Launcher
    threads: int
    draining: threading.Event


@dataclass
class Watch:
    """What the supervisor has seen of its trainer so far."""

    lines: list[joblog.Line] = field(default_factory=list)
    flushed: float = field(default_factory=time.monotonic)
    ended: events.Finished | events.Stopped | events.Failed | None = None
    stop: StopReason | None = None
    kill_at: float = float("inf")
    last_progress: dict[str, Any] | None = None


class Supervisor:
    def __init__(self, context: WorkerContext, job: Job, slot: Slot) -> None:
        self.context, self.job, self.slot = context, job, slot
        self.settings, self.database, self.store = context.settings, context.database, context.store
        self.lease = queue.lease_of(job)
        self.folder = self.settings.runs_dir / run_name(job.id, job.attempt)
        self.watch = Watch()
        self.oom_kills = OomKills()
        self.log = log.bind(job_id=job.id, attempt=job.attempt)

    def run(self) -> None:
        """See the attempt through, from the claim to a row that says how it ended."""
        with LeaseKeeper(self.database, self.lease, self.settings) as self.keeper:
            try:
                self._attempt()
            except LeaseLost:
                self.log.warning("lease lost; this attempt writes nothing more")
            except Exception as error:
                self.log.exception("supervisor failed")
                self._give_up(error)
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)
                sweep_strays(self.store, self.database, self.job.id, self.job.attempt)

    def _attempt(self) -> None:
        started = time.monotonic()
        try:
            self._prepare()
        except TrainingError as error:
            self._fail(events.Failed(code=error.code, message=error.detail, data=error.data))
            return
        trainer = self.context.launcher.start(self._plan())
        try:
            self._follow(trainer, deadline=started + self.job.spec["max_seconds"])
        finally:
            trainer.end()
        self._conclude(trainer, time.monotonic() - started)

    def _give_up(self, error: Exception) -> None:
        """Not the job's fault: to be tried again."""
        detail = f"{type(error).__name__}: {error}"
        try:
            if disk_is_full(error):
                self._mark_lost(f"the disk is full: {detail}", "disk_full")
            else:
                self._mark_lost(detail, "internal_error")
        except LeaseLost:
            self.log.warning("lease lost; this attempt writes nothing more")

    # --- start --------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.reported_step = -1
        self.dataset = self._dataset()
        self.resume = self._checkpoint() if self.job.attempt > 1 else None
        origin = self.job.spec.get("init_from")
        self.init_from = self._weights_of(origin["job"]) if origin and self.resume is None else None

    def _checkpoint(self) -> Path | None:
        """The newest checkpoint that can be had here; the log's curve, whether or not there is one, up to its end."""
        look = partial(queue.resume_point, lease=self.lease)
        checkpoints, self.reported_step = self._patiently(self.database.read, look)
        for row in checkpoints:
            if path := self._fetch(row):
                self._write(partial(queue.note_resumed, lease=self.lease, step=row.step))
                return path
        return None

    def _weights_of(self, job_id: str) -> Path:
        """Bring the weights that another job ended with here. Raises DataError when they are gone."""
        path = self.folder / "init_from.safetensors"
        try:
            row = self._patiently(self.database.read, partial(jobs.artifact, job_id=job_id, name=MODEL))
            self.store.get(row.key, path)
        except (NotFound, FileNotFoundError) as error:
            detail = f"init_from: {job_id} or its {MODEL} has been deleted since this job was submitted"
            raise DataError(detail, job=job_id) from error
        if sha256_of(path) != row.sha256:
            raise DataError(f"init_from: the {MODEL} of {job_id} is damaged: its sha256 is not the stored one")
        return path

    def _dataset(self) -> Path | None:
        """The folder of an uploaded dataset; None for a built-in one, which the trainer finds by its name."""
        dataset_id = self.job.spec["dataset"]
        if dataset_id in DATASETS:
            return None
        return local_folder(dataset_id, self.settings, self.database, self.store)

    def _fetch(self, row: CheckpointRow) -> Path | None:
        """Bring a checkpoint here; None when it is gone or not what was stored, and the one before must do."""
        path = self.folder / "resume.pt"
        try:
            self.store.get(row.key, path)
        except OSError as error:
            if disk_is_full(error):
                raise  # there is nothing wrong with the checkpoint: another attempt goes on from it
            self._say(f"the checkpoint at step {row.step} cannot be read: {error}", "warning")
            return None
        if sha256_of(path) != row.sha256:
            self._say(f"the checkpoint at step {row.step} is damaged; going back to the one before", "warning")
            return None
        return path

    def _plan(self) -> dict[str, Any]:
        device = self.slot.device_for(self.job.device)
        return {
            "kind": self.job.kind,
            "spec": self.job.spec,
            "folder": str(self.folder),
            "data_dir": str(self.settings.datasets_dir),
            "download": self.settings.download,
            "device": device.kind,
            "gpu_uuid": device.uuid,
            "threads": self.context.threads,
            "resume": str(self.resume) if self.resume else None,
            "init_from": str(self.init_from) if self.init_from else None,
            "reported_step": self.reported_step,
            "dataset": str(self.dataset) if self.dataset else None,
        }

    # --- follow -------------------------------------------------------------------------------------------------------

    def _follow(self, trainer: Trainer, deadline: float) -> None:
        """Pass events on until the trainer is gone and its pipe is empty."""
        running = True
        while running:
            self.oom_kills.look()
            running = self._receive(trainer) if trainer.pipe.poll(TICK_SECONDS) else trainer.alive()
            if time.monotonic() - self.watch.flushed >= FLUSH_SECONDS:
                self._flush()
            self._apply_stop_requests(trainer, deadline)
        self._receive(
            trainer
        )  # it may have said its last word, and ended, between the look at the pipe and the one at it

    def _receive(self, trainer: Trainer) -> bool:
        """Take what lies in the pipe; False at its end. The pipe ends with its trainer: nobody else holds it open."""
        try:
            while trainer.pipe.poll():
                self._note(trainer.pipe.recv())
        except (EOFError, OSError):
            return False
        return True

    def _note(self, event: events.Event) -> None:
        watch = self.watch
        match event:
            case events.Progress():
                watch.last_progress = {name: value for name, value in asdict(event).items() if name != "at"}
                self.keeper.progress = watch.last_progress
            case events.CheckpointSaved():
                self._store_checkpoint(event)
            case events.Finished() | events.Stopped() | events.Failed():
                watch.ended = event
            case _:
                watch.lines.append(line_of(event))

    def _apply_stop_requests(self, trainer: Trainer, deadline: float) -> None:
        """Ask the trainer to stop for the first reason that holds; kill it when its grace is over."""
        watch = self.watch
        if watch.stop is None and (reason := self._stop_reason(deadline)):
            self.log.info("stopping the trainer", reason=reason.value)
            watch.stop = reason
            watch.kill_at = time.monotonic() + self.settings.grace_seconds
            trainer.request_stop()
        if self.keeper.is_lost() or time.monotonic() > watch.kill_at:
            trainer.kill()
            watch.kill_at = float("inf")

    def _stop_reason(self, deadline: float) -> StopReason | None:
        if self.keeper.is_lost():
            return StopReason.LOST
        if self.keeper.cancelled.is_set():
            return StopReason.CANCEL
        if self.keeper.paused.is_set():
            return StopReason.PAUSE
        if time.monotonic() > deadline:
            return StopReason.DEADLINE
        return StopReason.DRAIN if self.context.draining.is_set() else None

    def _flush(self) -> None:
        """Write the lines that wait. While the database is away they go on waiting, in order."""
        watch = self.watch
        watch.flushed = time.monotonic()
        if not watch.lines:
            return
        try:
            with self.database.write() as session:
                queue.append(session, self.lease, watch.lines)
        except DatabaseAway as error:
            self.log.warning("events wait for the database", lines=len(watch.lines), error=str(error))
        except LeaseLost:
            self.keeper.lost.set()
        else:
            watch.lines = []

    def _store_checkpoint(self, event: events.CheckpointSaved) -> None:
        """Into the store first, then into the table; then the oldest goes, and not before the new one has been read
        back. A store that is full costs no training."""
        path = Path(event.path)
        try:
            file = self.store.put(checkpoint_key(self.job.id, self.job.attempt, event.step), path)
            self.store.check(file)
        except OSError as error:
            self._say(f"the checkpoint at step {event.step} could not be stored: {error}", "warning")
            return
        finally:
            path.unlink(missing_ok=True)  # nobody reads it here, and the next one needs the room
        keep = self.job.spec["checkpoint"]["keep_last"]
        self._flush()
        old = self._write(
            lambda session: queue.add_checkpoint(session, self.lease, file, event.step, event.epoch, keep)
        )
        for key in old:
            self.store.remove(key)

    def _say(self, message: str, level: events.Level = "info") -> None:
        self.watch.lines.append(joblog.Line("warning" if level == "warning" else "log", message, {}, level))

    # --- conclude -----------------------------------------------------------------------------------------------------

    def _conclude(self, trainer: Trainer, seconds: float) -> None:
        """One terminal state, or the queue again; written once, by the lease holder."""
        if self.keeper.lost.is_set():
            raise LeaseLost(self.job.id)
        watch, lease = self.watch, self.lease
        self._write(lambda session: queue.append(session, lease, watch.lines))
        match watch.ended, watch.stop:
            case events.Finished() as finished, _:
                self._succeed(finished, seconds)
            case events.Failed(code="disk_full") as failed, _:
                self._mark_lost(f"the disk is full: {failed.message}", "disk_full")
            case events.Failed() as failed, _:
                self._fail(failed)
            case _, StopReason.CANCEL:
                reason = {"code": "cancelled_by_user", "detail": "cancelled on request"}
                self._finish(JobState.CANCELLED, "cancelled on request", reason)
            case _, StopReason.DEADLINE:
                limit = self.job.spec["max_seconds"]
                detail = f"not done after max_seconds = {limit:g}"
                self._finish(JobState.FAILED, detail, {"code": "deadline_exceeded", "detail": detail})
            case _, StopReason.DRAIN:
                self._write(lambda session: queue.release(session, lease, "handed back: the worker shuts down"))
            case _, StopReason.PAUSE:
                message = "queued again: the wish to pause was taken back"
                state = self._write(lambda session: queue.release(session, lease, message, outcome="paused"))
                self.log.info("job paused", state=state.value)
            case _ if trainer.process.exitcode == -signal.SIGKILL and self.oom_kills.lately():
                self._fail(events.Failed(code="out_of_memory_host", message=OUT_OF_MEMORY))
            case _:
                self._mark_lost(how_it_ended(trainer.process.exitcode), "trainer_died")

    def _mark_lost(self, detail: str, cause: queue.Cause) -> None:
        state = self._write(lambda session: queue.mark_lost(session, self.lease, detail, cause))
        self.log.warning("attempt lost", cause=cause, detail=detail, state=state.value)

    def _succeed(self, finished: events.Finished, seconds: float) -> None:
        result = {**finished.result, "duration_seconds": seconds}
        if self.job.reproduces is not None:
            result["reproduction"] = self._reproduction(self.job.reproduces, result)
        self._finish(JobState.SUCCEEDED, f"succeeded: {headline(result)}", result=result, files=self._store_artifacts())

    def _reproduction(self, of: str, result: dict[str, Any]) -> dict[str, Any]:
        """This run held against the one that it repeats. Its own curve is in the log by now."""

        def ask(session: Session) -> dict[str, Any]:
            try:
                original = jobs.get(session, of)
            except NotFound:
                return reproduction.without_original(of)
            before, now = (list(map(_point, joblog.points_of(session, job_id))) for job_id in (of, me))
            return reproduction.compare(of, original.result or {}, before, result, now)

        me = self.job.id
        return self._patiently(self.database.read, ask)

    def _store_artifacts(self) -> list[StoredFile]:
        folder = self.folder / "artifacts"
        return [self._store_artifact(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def _store_artifact(self, path: Path) -> StoredFile:
        return self.store.put(artifact_key(self.job.id, self.job.attempt, path.name), path)

    def _fail(self, failed: events.Failed) -> None:
        """Would end the same way again: for good."""
        data = {**failed.data, **({"traceback": failed.traceback} if failed.traceback else {})}
        line = joblog.Line("log", failed.message, data, "error", at=at(failed))
        self._write(lambda session: queue.append(session, self.lease, [line]))
        result, files = None, None
        if table := failed.data.get("gradient_check"):  # what a failed check measured is what it was made for
            result, files = {"passed": False, "gradient_check": table}, self._store_artifacts()
        reason = {"code": failed.code, "detail": failed.message}
        self._finish(JobState.FAILED, failed.message, reason, result, files)

    def _finish(
        self,
        state: JobState,
        message: str,
        reason: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        files: list[StoredFile] | None = None,
    ) -> None:
        self._write(
            lambda session: queue.finish(
                session, self.lease, state, message, reason, result, self.watch.last_progress, files or []
            )
        )
        self.log.info("job ended", state=state.value, reason=reason and reason["code"])

    def _write(self, change: Callable[[Session], T]) -> T:
        """One transaction, tried again while the database is away and the lease is not yet lost."""
        return self._patiently(self.database.write, change)

    def _patiently(self, scope: Callable[[], AbstractContextManager[Session]], work: Callable[[Session], T]) -> T:
        while True:
            try:
                with scope() as session:
                    return work(session)
            except DatabaseAway:
                if self.keeper.lost.wait(RETRY_SECONDS) or self.keeper.is_lost():
                    raise LeaseLost(self.job.id) from None


def run_name(job_id: str, attempt: int) -> str:
    return f"{job_id}-{attempt}"


def how_it_ended(exitcode: int | None) -> str:
    """A server that died before its trainers could not pass on how those ended."""
    if exitcode is None or exitcode == 255:
        return "the trainer process ended, and the server that would know how is gone too"
    if exitcode < 0:
        return f"the trainer process was killed by {signal.Signals(-exitcode).name}"
    return f"the trainer process ended with exit code {exitcode}"


def _point(data: dict[str, Any]) -> reproduction.Point:
    return data["series"], data["step"], data["metrics"]


def headline(result: dict[str, Any]) -> str:
    """What a finished job is asked about first."""
    if "test_accuracy" in result:
        return f"test accuracy {result['test_accuracy']:.4f}"
    if "agrees" in result:
        verdict, apart = "agree" if result["agrees"] else "DIFFER", result["max_relative_difference"]
        return f"{result['stages']} stages, and both ways {verdict} (at most {apart:.2g} apart)"
    return "gradients by hand agree with autograd's"


def line_of(event: events.Event) -> joblog.Line:
    """A trainer's report as a line of the log."""
    match event:
        case events.Metric():
            data = {"step": event.step, "epoch": event.epoch, "series": event.series, "metrics": event.values}
            text = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
            message = f"step {event.step}: {text}"
            return joblog.Line("metric", message, data, series=event.series, step=event.step, at=at(event))
        case events.Log():
            return joblog.Line("log", event.message, event.data, event.level, at=at(event))
    raise TypeError(f"no line for {event!r}")


def at(event: events.Event) -> datetime:
    return datetime.fromtimestamp(event.at, UTC)
