"""One running job: start the trainer process, pass its events on, apply requests to stop, write the outcome.

The trainer has no access to the database: the supervisor is the only writer for its attempt, and every write names the
lease. It has a thread of its own, and two others beside it, so that it reads events and requests to stop however slow
database and store are: one renews the lease, one fetches and stores files.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import structlog
from sqlalchemy.orm import Session

from shared import events
from shared.artifacts import StoredFile
from shared.db.tables import Job
from shared.disks import disk_error, disk_is_unusable, disk_outage
from shared.errors import DatabaseAway, LeaseLost, NotFound, StoreUnavailable, TrainingError
from shared.jobs import joblog, jobs, queue
from shared.jobs.retry_backoff import Cause
from shared.jobs.states import JobState
from worker import reproduction
from worker.attempt_outcome import (
    RELEASED,
    DeadlineExceeded,
    Failed,
    Interrupted,
    LastEvent,
    LeaseGone,
    Lost,
    Released,
    StopReason,
    Succeeded,
    decide,
)
from worker.checkpoint_uploads import CheckpointUploads
from worker.context import WorkerContext
from worker.devices import Slot
from worker.folder_cache import HeldFolder
from worker.inputs import Inputs
from worker.launcher import Trainer
from worker.lease import LeaseKeeper
from worker.log_buffer import LogBuffer, at, line_of
from worker.oom import OomKills
from worker.orphaned_files import remove_orphaned_files
from worker.plan import Plan
from worker.result_uploads import HURRY_SECONDS, ResultUploads
from worker.start_failures import is_exhausted
from worker.transfer_thread import TransferThread, is_done

TICK_SECONDS = 0.25
LATE_SECONDS = 5.0  # after the grace period, for what is being stored; `gradq up` kills a worker after 10
CLOSE_SECONDS = 5.0  # for a transfer whose file is no longer needed
HANDED_BACK_SECONDS = 5.0  # until a job that this worker could not start may be claimed again: others come first

log = structlog.get_logger()


@dataclass
class Watch:
    """What the supervisor has seen of its trainer so far."""

    ended: LastEvent | None = None
    stop: StopReason | None = None
    kill_at: float = float("inf")
    stop_by: float | None = None  # the end of the grace period, once the trainer was asked to stop
    last_progress: dict[str, Any] | None = None
    receiving_from: float | None = None  # when an event began that has not arrived as a whole
    kill_stuck_at: float | None = None


class NotStarted(Exception):
    """This worker could not start the job's threads or its trainer."""


class Supervisor:
    oom_kills: OomKills  # from the start of the attempt on

    def __init__(self, context: WorkerContext, job: Job, slot: Slot) -> None:
        """Takes nothing of the system that may be used up: what fails is to be met by `run`, which writes it down."""
        self.context, self.job, self.slot = context, job, slot
        self.settings, self.store = context.settings, context.store
        self.lease = queue.lease_of(job)
        self.keeper = LeaseKeeper(context.database, self.lease, self.settings, context.draining)
        self.log_buffer = LogBuffer(self.keeper)
        self.keeper.each_round = self.log_buffer.flush
        self.keeper.first = self._kill_if_stuck
        self.trainer: Trainer | None = None
        self.deadline = float("inf")
        self.transfers = TransferThread(f"transfers-{job.id}")
        self.uploads = CheckpointUploads(context, self.keeper, self.log_buffer, job, self.transfers)
        stop_reason = partial(self._stop_reason, float("inf"))
        self.results = ResultUploads(context, self.keeper, self.log_buffer, job, self.transfers, stop_reason)
        self.folder = self.settings.runs_dir / run_name(job.id, job.attempt)
        self.dataset: HeldFolder | None = None  # held in the cache until the attempt has ended
        self.watch = Watch()
        self.log = log.bind(job_id=job.id, attempt=job.attempt)

    def run(self) -> None:
        """Run the attempt from the claim until the row says how it ended, or the lease is lost. Does not raise."""
        self.context.running.add(self.folder.name)
        try:
            self._attempt()
        except LeaseLost:
            self._leave_to_others()
        except Exception as error:
            try:
                self._end_early(error)
            except LeaseLost:
                self._leave_to_others()
        finally:
            try:
                self._clean_up()
            finally:
                self.keeper.stop()

    def _attempt(self) -> None:
        started = time.monotonic()
        deadline = self.deadline = started + self.job.spec["max_seconds"]
        self._start_threads()
        try:
            inputs = self._fetch_inputs(deadline)
        except TrainingError as error:
            self._fail(events.Failed(code=error.code, message=error.detail, data=error.data))
            return
        trainer = self.trainer = self._start_trainer(inputs)
        try:
            self._follow(trainer, deadline)
            if self._has_finished:  # its files are written: to free its memory takes longer than to store them
                trainer.kill()
            else:
                trainer.end()
            self._conclude(trainer, time.monotonic() - started)
        finally:
            trainer.end()  # before the slot is free

    def _end_early(self, error: Exception) -> None:
        """End an attempt that raised something. Raises LeaseLost."""
        if isinstance(error, Interrupted):
            if error.reason is StopReason.DEADLINE:
                self._exceed_deadline()
            else:
                self._release(RELEASED[error.reason])
        elif isinstance(error, NotStarted) and not disk_is_unusable(error):
            self.context.start_failures.report(str(error))
            message = f"handed back: the worker could not start it: {error}"
            self._release(Released(message, "drained", HANDED_BACK_SECONDS))
        else:
            self._give_up(error)

    def _leave_to_others(self) -> None:
        self.log.warning("lease lost; this attempt writes nothing more")

    def _clean_up(self) -> None:
        """End the threads and remove the run folder, and the attempt's files in the store that no row names.

        Those are found once nothing more is stored. A slot does not wait for a store that is not a folder, or is away.
        """
        if self.dataset is not None:
            self.dataset.release()
        self.uploads.close()
        ended = self.transfers.close(HURRY_SECONDS if self.context.draining.is_set() else CLOSE_SECONDS)
        quick = self.store.is_local and self.context.storage.outage is None and not self.keeper.is_lost()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.context.running.discard(self.folder.name)
        if ended and quick:
            remove_orphaned_files(self.store, self.context.database, self.job.id, self.job.attempt)
        else:
            self.transfers.ended.add_done_callback(self._hand_over)  # at once, or in the thread that is left behind

    def _hand_over(self, _: Future[None]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # the last transfer may have made it anew
        self.context.lost_attempts.put((self.job.id, self.job.attempt))

    def _give_up(self, error: Exception) -> None:
        """Requeue the job after an error that is not its own. Raises LeaseLost."""
        detail = f"{type(error).__name__}: {error}"
        if isinstance(error, StoreUnavailable):
            self._mark_lost(f"the artifact store is not available: {error.detail}", "store_unavailable")
        elif isinstance(error, DatabaseAway):
            self._mark_lost(f"the database was away: {error.detail}", "database_away")
        elif disk_is_unusable(error):
            self._mark_lost(disk_outage(disk_error(error, self.folder)), "disk_full")
        else:
            self.log.error("supervisor failed", exc_info=error)
            self._mark_lost(detail, "internal_error")

    # --- start --------------------------------------------------------------------------------------------------------

    def _start_threads(self) -> None:
        try:
            self.oom_kills = OomKills()
            self.keeper.start()
            self.transfers.start()
        except (OSError, RuntimeError, MemoryError) as error:
            raise NotStarted(f"{type(error).__name__}: {error}") from error

    def _fetch_inputs(self, deadline: float) -> Inputs:
        """Raises Interrupted, LeaseLost, and what `Inputs.fetch` does."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
            fetch = partial(Inputs.fetch, self.job, self.folder, self.context, self.keeper, self.log_buffer)
            inputs = self.transfers.submit(fetch)
            while not is_done(inputs, TICK_SECONDS):
                if reason := self._stop_reason(deadline):
                    raise LeaseLost(self.job.id) if reason is StopReason.LOST else Interrupted(reason)
            found = inputs.result()
            self.dataset = found.dataset
            return found
        except Exception as error:
            if is_exhausted(error):
                raise NotStarted(f"{type(error).__name__}: {error}") from error
            raise

    def _start_trainer(self, inputs: Inputs) -> Trainer:
        try:
            return self.context.launcher.start(self._plan(inputs))
        except (OSError, EOFError, RuntimeError, MemoryError, psutil.Error) as error:
            raise NotStarted(f"no trainer could be started: {type(error).__name__}: {error}") from error

    def _plan(self, inputs: Inputs) -> Plan:
        device = self.slot.device_for(self.job.device)
        return Plan(
            kind=self.job.kind,
            spec=self.job.spec,
            folder=str(self.folder),
            data_dir=str(self.settings.datasets_dir),
            download=self.settings.download,
            device=device.kind,
            gpu_uuid=device.uuid,
            threads=self.context.threads,
            resume=text_of(inputs.resume),
            init_from=text_of(inputs.init_from),
            reported_step=inputs.reported_step,
            dataset=text_of(inputs.dataset.path if inputs.dataset is not None else None),
            cache_dir=str(self.settings.cache_dir),
            cache_bytes=self.settings.cache_bytes,
        )

    # --- follow -------------------------------------------------------------------------------------------------------

    def _follow(self, trainer: Trainer, deadline: float) -> None:
        """Pass events on until the trainer has finished, or is gone and its pipe is empty."""
        running = True
        while running:
            self.oom_kills.poll()
            if self._must_hold_back():
                self.keeper.lost.wait(TICK_SECONDS)  # the pipe fills up, and the trainer waits for the database too
            else:
                running = self._receive(trainer, deadline) if trainer.pipe.poll(TICK_SECONDS) else trainer.alive()
            self._listen(trainer, deadline)
            running = running and not self._has_finished
        # drain the pipe once more: the trainer may have sent its last event between the poll and the liveness check
        self._receive(trainer, deadline, all_of_it=True)

    @property
    def _has_finished(self) -> bool:
        return isinstance(self.watch.ended, events.Finished)

    def _must_hold_back(self) -> bool:
        """Whether to take no event now, since as many lines as may wait for the database do."""
        return self.log_buffer.is_full() and self.watch.stop is None and not self.keeper.is_lost()

    def _receive(self, trainer: Trainer, deadline: float, all_of_it: bool = False) -> bool:
        """Take the events in the pipe. False after the last one of a trainer that has finished, and at the pipe's end,
        which is the trainer's: no other process holds it open.

        `all_of_it`: also those that a full log buffer has no room for: the trainer is gone, and the pipe has little.
        """
        while not self._has_finished and (all_of_it or not self._must_hold_back()):
            try:
                if not trainer.pipe.poll():
                    return True
                self.watch.receiving_from = time.monotonic()
                event = trainer.pipe.recv()
            except (EOFError, OSError):
                return False
            finally:
                self.watch.receiving_from = self.watch.kill_stuck_at = None
            self._note(event)
            self._listen(trainer, deadline)  # between any two events: some trainers always have another one
        return True

    def _kill_if_stuck(self) -> None:
        """Kill a trainer that has to stop and is frozen in the middle of an event, which its pipe took a part of.

        The supervisor waits for the rest and sees no request, so the lease keeper's thread calls this.
        """
        watch, now, reason = self.watch, time.monotonic(), self._stop_reason(self.deadline)
        receiving_from, kill_stuck_at = watch.receiving_from, watch.kill_stuck_at  # which the supervisor may clear
        if self.trainer is None or receiving_from is None or reason is None:
            return
        if reason is not StopReason.LOST:
            if kill_stuck_at is None:
                watch.kill_stuck_at = kill_stuck_at = min(watch.kill_at, now + self.settings.grace_seconds)
            if now - receiving_from < TICK_SECONDS or now < kill_stuck_at:
                return
        self.trainer.kill()

    def _listen(self, trainer: Trainer, deadline: float) -> None:
        self._apply_stop_requests(trainer, deadline)
        if self.uploads.error is not None:
            raise self.uploads.error

    def _note(self, event: events.Event) -> None:
        watch = self.watch
        match event:
            case events.Progress():
                watch.last_progress = {name: value for name, value in asdict(event).items() if name != "at"}
                self.keeper.progress = watch.last_progress
            case events.CheckpointSaved():
                self.uploads.add(event)
            case events.Finished() | events.Stopped() | events.Failed():
                watch.ended = event
            case events.Metric() | events.Log():
                self.log_buffer.append(line_of(event))
            case _:
                raise TypeError(f"no line for {event!r}")

    def _apply_stop_requests(self, trainer: Trainer, deadline: float) -> None:
        """Ask the trainer to stop for the first reason that holds; kill it when its grace period is over."""
        watch = self.watch
        if watch.stop is None and (reason := self._stop_reason(deadline)):
            self.log.info("stopping the trainer", reason=reason.value)
            watch.stop = reason
            watch.kill_at = watch.stop_by = time.monotonic() + self.settings.grace_seconds
            self.uploads.retry_for(self.settings.grace_seconds)  # the next checkpoint is the last one
            trainer.request_stop()
        if self.keeper.is_lost() or time.monotonic() > watch.kill_at:
            trainer.kill()
            watch.kill_at = float("inf")

    def _stop_reason(self, deadline: float) -> StopReason | None:
        if self.keeper.is_lost():
            return StopReason.LOST
        if self.keeper.cancel_requested.is_set():
            return StopReason.CANCEL
        if self.keeper.pause_requested.is_set():
            return StopReason.PAUSE
        if time.monotonic() > deadline:
            return StopReason.DEADLINE
        return StopReason.DRAIN if self.context.draining.is_set() else None

    # --- conclude -----------------------------------------------------------------------------------------------------

    def _conclude(self, trainer: Trainer, seconds: float) -> None:
        """Write the outcome once: a terminal state, or the queue again."""
        self._finish_checkpoints()
        stop = StopReason.LOST if self.keeper.lost.is_set() else self.watch.stop
        outcome = decide(self.watch.ended, stop, trainer.process.exitcode, self.oom_kills.recently())
        if isinstance(outcome, LeaseGone):
            raise LeaseLost(self.job.id)
        self.log_buffer.flush_all()
        match outcome:
            case Succeeded(result):
                self._succeed(result, seconds)
            case Failed(error):
                self._fail(error)
            case DeadlineExceeded():
                self._exceed_deadline()
            case Released():
                self._release(outcome)
            case Lost(detail, cause, folder, elsewhere):
                self._mark_lost(detail, cause, folder, elsewhere)

    def _finish_checkpoints(self) -> None:
        """Wait until the last checkpoint is stored.

        As long as it takes; but a store that is not available is retried until the end of the grace period, and the end
        of a job, which needs its last checkpoint for a retry on request alone, and of a worker waits hardly longer.
        """
        grace, began = self.settings.grace_seconds, time.monotonic()
        stop_by = self.watch.stop_by or began + grace
        self.uploads.retry_for(max(0.0, stop_by - began))
        while not self.uploads.done(TICK_SECONDS):
            if self.keeper.is_lost():
                raise LeaseLost(self.job.id)
            ends = self.watch.stop is StopReason.DEADLINE or self.keeper.cancel_requested.is_set()
            if (ends or self.context.draining.is_set()) and time.monotonic() > stop_by + LATE_SECONDS:
                return
        if self.uploads.error is not None and not isinstance(self.watch.ended, events.Finished):
            raise self.uploads.error

    def _release(self, released: Released) -> None:
        self.log_buffer.flush_all()
        message, outcome, progress = released.message, released.attempt_outcome, self.watch.last_progress
        wait = released.wait_seconds
        state = self.keeper.write(lambda session: queue.release(session, self.lease, message, outcome, progress, wait))
        self.log.info("job ended" if state is JobState.CANCELLED else "job released", state=state.value)

    def _exceed_deadline(self) -> None:
        detail = f"not done after max_seconds = {self.job.spec['max_seconds']:g}"
        self._finish(JobState.FAILED, detail, {"code": "deadline_exceeded", "detail": detail})

    def _mark_lost(self, detail: str, cause: Cause, folder: Path | None = None, elsewhere: bool = False) -> None:
        if (cause == "disk_full" or cause == "store_unavailable") and not elsewhere:
            self.context.storage.report(cause, detail, folder)
        self.log_buffer.flush_all()
        state = self.keeper.write(lambda session: queue.mark_lost(session, self.lease, detail, cause))
        self.log.warning("attempt lost", cause=cause, detail=detail, state=state.value)

    def _succeed(self, result: dict[str, Any], seconds: float) -> None:
        result = {**result, "duration_seconds": seconds}
        if self.job.reproduces is not None:
            result["reproduction"] = self._reproduction(self.job.reproduces, result)
        self._finish(JobState.SUCCEEDED, f"succeeded: {headline(result)}", result=result, files=self._store_results())

    def _reproduction(self, of: str, result: dict[str, Any]) -> dict[str, Any]:
        """Compare this run with the original. The log buffer is flushed, so the log holds this run's whole curve."""

        def compare(session: Session) -> dict[str, Any]:
            try:
                original = jobs.get(session, of)
            except NotFound:
                return reproduction.without_original(of)
            before, now = (list(map(_point, joblog.points_of(session, job_id))) for job_id in (of, me))
            return reproduction.compare(of, original.result or {}, before, result, now)

        me = self.job.id
        return self.keeper.read(compare)

    def _store_results(self) -> list[StoredFile]:
        return self.results.store(self.folder / "artifacts")

    def _fail(self, failed: events.Failed) -> None:
        """End the job as failed. A failed gradient check keeps its measurements and its files."""
        data = {**failed.data, **({"traceback": failed.traceback} if failed.traceback else {})}
        line = joblog.Line("log", failed.message, data, "error", at=at(failed))
        self.log_buffer.append(line)
        self.log_buffer.flush_all()
        result, files = None, None
        if table := failed.data.get("gradient_check"):
            result, files = {"passed": False, "gradient_check": table}, self._store_results()
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
        self.log_buffer.flush_all()
        self.keeper.write(
            lambda session: queue.finish(
                session, self.lease, state, message, reason, result, self.watch.last_progress, files or []
            )
        )
        self.log.info("job ended", state=state.value, reason=reason and reason["code"])


def run_name(job_id: str, attempt: int) -> str:
    return f"{job_id}-{attempt}"


def text_of(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _point(data: dict[str, Any]) -> reproduction.Point:
    return data["series"], data["step"], data["metrics"]


def headline(result: dict[str, Any]) -> str:
    """The main figure of a finished job's result, for the last line of its log."""
    if "test_accuracy" in result:
        return f"test accuracy {result['test_accuracy']:.4f}"
    if "agrees" in result:
        verdict, apart = "agree" if result["agrees"] else "DIFFER", result["max_relative_difference"]
        return f"{result['stages']} stages, and both ways {verdict} (at most {apart:.2g} apart)"
    return "gradients by hand agree with autograd's"
