"""The job store and the queue on both databases: moves between states, leases, log lines, checkpoints and artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from support.store import (
    CPU,
    GPU,
    OVER,
    ROUNDS,
    at_once,
    claim,
    claim_again,
    job_of,
    lines_of,
    point,
    read,
    running,
    standing,
    stored,
    submit,
    write,
)
from support.waiting import wait_for

from shared.artifacts import artifact_key, checkpoint_key
from shared.db.database import Database
from shared.db.tables import ArtifactRow, Attempt, Base, CheckpointRow, EventRow, Job, database_now
from shared.errors import LeaseLost, NotFound, WrongState
from shared.jobs import joblog, jobs, queue
from shared.jobs.joblog import EventFilter, Line
from shared.jobs.queue import Lease
from shared.jobs.retry_backoff import MOST_OUTAGES, OUTAGES, Cause, backoff_seconds
from shared.jobs.states import ALLOWED_ACTIONS, ALLOWED_MOVES, TERMINAL, JobState, shown_status
from shared.spec.job_spec import GradientCheckSpec, JobSpec


def all_rows(database: Database) -> dict[str, list[Any]]:
    """All rows of all tables."""
    with database.read() as session:
        return {
            table.name: [tuple(row) for row in session.execute(table.select().order_by(*table.primary_key))]
            for table in Base.metadata.sorted_tables
        }


WRITES: dict[str, Callable[[Session, Lease], Any]] = {
    "append": lambda session, lease: queue.append(session, lease, [Line("log", "late", {})]),
    "renew": lambda session, lease: queue.renew(session, lease, 60, {"step": 99}),
    "finish": lambda session, lease: queue.finish(session, lease, JobState.SUCCEEDED, "late", files=[stored()]),
    "add_checkpoint": lambda session, lease: queue.add_checkpoint(session, lease, stored(), 99, 9, 1),
    "release": lambda session, lease: queue.release(session, lease, "late"),
    "lose": lambda session, lease: queue.mark_lost(session, lease, "late"),
    "requested_stop": lambda session, lease: queue.requested_stop(session, lease),
}


def assert_can_write_nothing(database: Database, lease: Lease) -> None:
    before = all_rows(database)
    for name, change in WRITES.items():
        with pytest.raises(LeaseLost):
            write(database, change, lease)
        assert all_rows(database) == before, name


# --- moves ------------------------------------------------------------------------------------------------------------


def end_as(state: JobState) -> Callable[[Database, str], Any]:
    def move(database: Database, job_id: str) -> None:
        write(database, queue.finish, lease_now(database, job_id), state, state.value)

    return move


def lease_now(database: Database, job_id: str) -> Lease:
    job = job_of(database, job_id)
    return Lease(job.id, job.attempt, job.lease_token or "none")


MOVES: dict[tuple[JobState, JobState], Callable[[Database, str], Any]] = {
    (JobState.QUEUED, JobState.RUNNING): lambda database, job_id: claim(database),
    (JobState.QUEUED, JobState.CANCELLED): lambda database, job_id: write(database, jobs.request_cancel, job_id),
    (JobState.RUNNING, JobState.SUCCEEDED): end_as(JobState.SUCCEEDED),
    (JobState.RUNNING, JobState.FAILED): end_as(JobState.FAILED),
    (JobState.RUNNING, JobState.CANCELLED): end_as(JobState.CANCELLED),
    (JobState.RUNNING, JobState.QUEUED): lambda database, job_id: write(
        database, queue.release, lease_now(database, job_id), "drained"
    ),
    (JobState.RUNNING, JobState.PAUSED): lambda database, job_id: pause(database, lease_now(database, job_id)),
    (JobState.PAUSED, JobState.QUEUED): lambda database, job_id: write(database, jobs.resume, job_id),
    (JobState.PAUSED, JobState.CANCELLED): lambda database, job_id: write(database, jobs.request_cancel, job_id),
    (JobState.FAILED, JobState.QUEUED): lambda database, job_id: write(database, jobs.retry, job_id),
    (JobState.CANCELLED, JobState.QUEUED): lambda database, job_id: write(database, jobs.retry, job_id),
}


def pause(database: Database, lease: Lease) -> None:
    """Pause a running job: the client's request, then the worker's release at a checkpoint."""
    write(database, jobs.request_pause, lease.job_id)
    write(database, queue.release, lease, "paused", outcome="paused")


def test_the_moves_below_are_all_that_are_allowed() -> None:
    assert {(old, new) for old, allowed in ALLOWED_MOVES.items() for new in allowed} == set(MOVES)
    assert {new for state in TERMINAL for new in ALLOWED_MOVES[state]} == {JobState.QUEUED}


@pytest.mark.parametrize(("old", "new"), MOVES, ids=lambda state: state.value)
def test_an_allowed_move_is_made_and_logged(database: Database, old: JobState, new: JobState) -> None:
    job_id = submit(database)
    if old is not JobState.QUEUED:
        claim(database)
    if old is JobState.PAUSED:
        pause(database, lease_now(database, job_id))
    if old in TERMINAL:
        end_as(old)(database, job_id)
    MOVES[old, new](database, job_id)
    job = job_of(database, job_id)
    assert job.state == new
    assert lines_of(database, job_id, "status")[-1].data["status"] == new.value
    assert (job.lease_token is not None) == (new is JobState.RUNNING)
    assert (job.lease_until is not None) == (new is JobState.RUNNING)
    assert (job.finished_at is not None) == (new in TERMINAL)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_no_worker_moves_a_terminal_job_again(database: Database, state: JobState) -> None:
    lease = running(database)
    write(database, queue.finish, lease, state, "done")
    assert claim(database) is None
    assert_can_write_nothing(database, lease)


def test_a_request_is_shown_only_on_a_running_row_and_a_cancel_outweighs_a_pause() -> None:
    assert shown_status(JobState.RUNNING, True) == "cancelling"
    assert shown_status(JobState.RUNNING, False, True) == "pausing"
    assert shown_status(JobState.RUNNING, True, True) == "cancelling"
    assert shown_status(JobState.RUNNING, False) == "running"
    others = [state for state in JobState if state is not JobState.RUNNING]
    assert [shown_status(state, True, True) for state in others] == [state.value for state in others]


def test_every_status_that_is_shown_says_what_is_allowed_in_it() -> None:
    assert set(ALLOWED_ACTIONS) == {*JobState, "cancelling", "pausing"}
    assert {status for status, actions in ALLOWED_ACTIONS.items() if "delete" in actions} == TERMINAL


# --- claim ------------------------------------------------------------------------------------------------------------


def test_the_highest_priority_is_claimed_first_and_then_the_oldest(database: Database) -> None:
    young, low, high, old = (submit(database, priority=p) for p in (50, 10, 90, 50))
    earlier = joblog.now() - timedelta(hours=1)  # younger by its id, older by the clock
    write(database, lambda session: session.execute(update(Job).where(Job.id == old).values(created_at=earlier)))
    assert [claim(database).id for _ in range(4)] == [high, old, young, low]
    assert claim(database) is None


def test_a_slot_takes_only_what_fits_its_device(database: Database) -> None:
    wants_gpu, wants_cpu = submit(database, device="cuda", priority=90), submit(database, device="cpu", priority=80)
    takes_any = submit(database, device="auto", priority=70)
    assert [claim(database, fits=CPU).id for _ in range(2)] == [wants_cpu, takes_any]
    assert claim(database, fits=CPU) is None
    assert claim(database, fits=GPU).id == wants_gpu


def test_a_claim_writes_attempt_lease_and_the_worker(database: Database) -> None:
    job = claim(database, "w7") if submit(database) else None
    assert job is not None
    row = job_of(database, job.id)
    assert (row.state, row.attempt, row.worker, row.lease_token) == ("running", 1, "w7", job.lease_token)
    seconds_left = read(database, lambda s: s.scalar(select(Job.lease_until)) - s.scalar(select(database_now())))
    assert 50 < seconds_left.total_seconds() <= 60
    (attempt,) = read(database, jobs.attempts_of, job.id)
    assert (attempt.number, attempt.worker, attempt.device, attempt.outcome) == (1, "w7", "cpu", None)


def test_of_two_claimers_at_the_same_moment_one_wins(database: Database) -> None:
    for _ in range(ROUNDS):
        job_id = submit(database)
        claimed = at_once(lambda: claim(database, "w1"), lambda: claim(database, "w2"))
        assert sorted(job is None for job in claimed) == [False, True]
        (winner,) = (job for job in claimed if job is not None)
        row = job_of(database, job_id)
        assert (row.attempt, row.worker, row.lease_token) == (1, winner.worker, winner.lease_token)
        assert len(read(database, jobs.attempts_of, job_id)) == 1


def test_many_claimers_share_the_queue_without_a_double(database: Database) -> None:
    submitted = {submit(database) for _ in range(20)}

    def take_all() -> list[str]:
        return [job.id for job in iter(lambda: claim(database), None)]

    taken = [job_id for share in at_once(*[take_all] * 4) for job_id in share]
    rest = take_all()  # PostgreSQL: a claim that found only locked rows returned None
    assert sorted(taken + rest) == sorted(submitted)


def test_a_message_delivered_three_times_claims_once(database: Database) -> None:
    submit(database)
    assert [claim(database) is None for _ in range(3)] == [False, True, True]


# --- lease ------------------------------------------------------------------------------------------------------------


def test_a_renewed_lease_does_not_run_out(database: Database) -> None:
    lease = running(database, seconds=OVER)
    assert list(read(database, queue.expired_leases)) == [lease]
    write(database, queue.renew, lease, 60, {"step": 7})
    assert read(database, queue.expired_leases) == {}
    assert job_of(database, lease.job_id).progress == {"step": 7}
    write(database, queue.renew, lease, 60)
    assert job_of(database, lease.job_id).progress == {"step": 7}  # None keeps the stored progress


def test_a_lease_runs_out_on_the_database_s_clock_whatever_this_host_thinks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in (-2, 2):
        monkeypatch.setattr(jobs, "now", lambda right=joblog.now, hours=hours: right() + timedelta(hours=hours))
        alive, dead = running(database), running(database, seconds=OVER)
        assert list(read(database, queue.expired_leases)) == [dead]
        write(database, queue.finish, alive, JobState.SUCCEEDED, "done")
        write(database, queue.finish, dead, JobState.SUCCEEDED, "done")
        monkeypatch.undo()


def test_a_lease_runs_out_by_the_passing_of_time(database: Database) -> None:
    lease = running(database, seconds=0.05)
    wait_for(lambda: list(read(database, queue.expired_leases)) == [lease], 30, "the end of a lease of 50 ms")


def test_a_lost_lease_cannot_write(database: Database) -> None:
    first = running(database)
    write(database, queue.append, first, [point("batch", 50)])
    write(database, queue.add_checkpoint, first, stored(), 50, 1, 2)
    write(database, queue.mark_lost, first, "not heard of")
    assert_can_write_nothing(database, first)  # queued again
    second = claim_again(database, first.job_id)
    assert_can_write_nothing(database, first)  # claimed by another worker
    assert_can_write_nothing(database, Lease(second.job_id, second.attempt, first.token))
    assert_can_write_nothing(database, Lease(second.job_id, first.attempt, second.token))
    write(database, queue.finish, second, JobState.SUCCEEDED, "done")
    assert_can_write_nothing(database, first)  # finished
    assert_can_write_nothing(database, second)


def test_an_expired_lease_still_writes_until_the_job_is_requeued(database: Database) -> None:
    lease = running(database, seconds=OVER)
    write(database, queue.append, lease, [Line("log", "still here", {})])
    assert lines_of(database, lease.job_id, "log")[-1].message == "still here"


def test_of_the_owner_and_the_one_who_takes_the_job_back_one_wins(database: Database) -> None:
    for _ in range(ROUNDS // 2):
        lease = running(database, seconds=OVER, max_attempts=1)

        def tried(change: Callable[..., Any], *arguments: Any, lease: Lease = lease) -> bool:
            try:
                write(database, change, lease, *arguments)
            except LeaseLost:
                return False
            return True

        done = at_once(
            lambda t=tried: t(queue.finish, JobState.SUCCEEDED, "done"), lambda t=tried: t(queue.mark_lost, "lost")
        )
        assert sorted(done) == [False, True]
        assert job_of(database, lease.job_id).state == ("succeeded" if done[0] else "failed")
        ends = [e for e in lines_of(database, lease.job_id, "status") if e.data["status"] in ("succeeded", "failed")]
        assert len(ends) == 1


# --- lost, drained ----------------------------------------------------------------------------------------------------


def test_a_lost_job_is_queued_again_until_its_attempts_are_used_up(database: Database) -> None:
    lease = running(database, max_attempts=3)
    for attempt in (1, 2):
        assert write(database, queue.mark_lost, lease, "not heard of") is JobState.QUEUED
        line = lines_of(database, lease.job_id, "status")[-1]
        assert line.level == "warning"
        assert line.data["reason"]["code"] == "worker_lost"
        lease = claim_again(database, lease.job_id)
        assert lease.attempt == attempt + 1
    assert write(database, queue.mark_lost, lease, "not heard of") is JobState.FAILED
    job = job_of(database, lease.job_id)
    assert (job.state, job.status_reason["code"]) == ("failed", "too_many_attempts")
    assert job.finished_at is not None
    outcomes = [(a.number, a.outcome, a.finished_at is not None) for a in read(database, jobs.attempts_of, job.id)]
    assert outcomes == [(1, "worker_lost", True), (2, "worker_lost", True), (3, "failed", True)]


def test_the_first_loss_waits_for_nothing_and_each_further_one_twice_as_long_up_to_a_minute() -> None:
    assert [backoff_seconds(n) for n in range(1, 9)] == [0, 5, 10, 20, 40, 60, 60, 60]
    assert backoff_seconds(19) == 60
    # a full disk stays full for a while
    assert [backoff_seconds(n, "disk_full") for n in range(1, 5)] == [1, 5, 10, 20]
    assert [backoff_seconds(n, "store_unavailable") for n in range(1, 5)] == [1, 5, 10, 20]
    assert [backoff_seconds(n, "database_away") for n in range(1, 5)] == [0, 5, 10, 20]


@pytest.mark.parametrize("cause", OUTAGES)
def test_an_outage_costs_no_attempt_but_a_job_that_only_meets_outages_ends(database: Database, cause: Cause) -> None:
    lease = running(database, max_attempts=2)
    for _ in range(MOST_OUTAGES):
        assert write(database, queue.mark_lost, lease, "no room", cause) is JobState.QUEUED
        assert job_of(database, lease.job_id).failures == 0
        lease = claim_again(database, lease.job_id)
    assert write(database, queue.mark_lost, lease, "killed", "trainer_died") is JobState.QUEUED
    lease = claim_again(database, lease.job_id)
    for _ in range(MOST_OUTAGES):  # another cause in between: the row of outages begins anew
        assert write(database, queue.mark_lost, lease, "no room", cause) is JobState.QUEUED
        lease = claim_again(database, lease.job_id)
    assert job_of(database, lease.job_id).failures == 1
    assert write(database, queue.mark_lost, lease, "no room", cause) is JobState.FAILED
    reason = job_of(database, lease.job_id).status_reason
    assert (reason["code"], "no room" in reason["detail"]) == ("too_many_attempts", True)


def test_an_attempt_says_what_it_was_lost_to(database: Database) -> None:
    lease = running(database, max_attempts=9)
    causes = ("worker_lost", "trainer_died", "disk_full", "internal_error")
    for cause in causes:
        write(database, queue.mark_lost, lease, "why", cause)
        line = lines_of(database, lease.job_id, "status")[-1]
        assert line.data["reason"] == {"code": cause, "detail": "why"}
        lease = claim_again(database, lease.job_id)
    assert [a.outcome for a in read(database, jobs.attempts_of, lease.job_id)] == [*causes, None]


def test_as_many_wait_as_could_be_claimed_now(database: Database) -> None:
    assert read(database, queue.waiting, {"cpu", "auto"}, 9) == 0
    for device in ("auto", "cpu", "cuda"):
        submit(database, device=device)
    assert [read(database, queue.waiting, {"cpu", "auto"}, most) for most in (1, 2, 9)] == [1, 2, 2]
    assert read(database, queue.waiting, {"cpu", "auto", "cuda"}, 9) == 3


def test_the_next_lease_to_run_out_is_known(database: Database) -> None:
    assert read(database, queue.next_expiry) is None
    for seconds in (500, 100):
        running(database, seconds=seconds)
    left = read(database, lambda session: queue.next_expiry(session) - session.scalar(select(database_now())))
    assert 90 < left.total_seconds() <= 100


def test_a_job_is_not_claimed_before_its_backoff_is_over(database: Database) -> None:
    lease = running(database, max_attempts=5)
    write(database, queue.mark_lost, lease, "lost")
    again = claim(database)
    assert again is not None  # at once after the first loss
    write(database, queue.mark_lost, queue.lease_of(again), "lost")
    assert claim(database) is None
    assert read(database, queue.waiting, {"cpu", "auto"}, 9) == 0
    wait = read(database, lambda s: s.scalar(select(Job.not_before)) - s.scalar(select(database_now())))
    assert 3 < wait.total_seconds() <= 5
    over = update(Job).values(not_before=database_now(-0.01))
    write(database, lambda session: session.execute(over.execution_options(synchronize_session=False)))
    assert read(database, queue.waiting, {"cpu", "auto"}, 9) == 1
    assert claim(database).attempt == 3


def test_an_attempt_that_was_drained_costs_nothing(database: Database) -> None:
    lease = running(database, max_attempts=1)
    for attempt in range(2, 6):
        write(database, queue.release, lease, "drained")
        lease = queue.lease_of(claim(database))  # at once: no backoff
        assert lease.attempt == attempt
    assert job_of(database, lease.job_id).failures == 0
    assert write(database, queue.mark_lost, lease, "lost") is JobState.FAILED
    outcomes = [a.outcome for a in read(database, jobs.attempts_of, lease.job_id)]
    assert outcomes == ["drained"] * 4 + ["failed"]


def test_leases_and_backoffs_from_before_the_clock_was_set_back_are_over(database: Database) -> None:
    lease = running(database, max_attempts=5, seconds=3600)
    assert list(read(database, queue.expired_leases, 15)) == [lease]
    assert read(database, queue.expired_leases, 3600) == {}
    write(database, queue.mark_lost, lease, "lost")
    ahead = update(Job).values(not_before=database_now(3600)).execution_options(synchronize_session=False)
    write(database, lambda session: session.execute(ahead))
    assert read(database, queue.waiting, {"cpu", "auto"}, 9) == 1
    assert claim(database) is not None


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_a_row_that_was_read_before_it_is_locked_is_read_again(database: Database) -> None:
    job_id = submit(database)
    write(database, jobs.request_cancel, job_id)
    with database.write() as session:
        read_before = jobs.get(session, job_id)
        queued = update(Job.__table__).values(state=JobState.QUEUED)
        session.connection().execute(queued)  # as a concurrent change does, whose lock the retry waits for
        with pytest.raises(WrongState, match="cannot retry a job that is queued"):
            jobs.retry(session, job_id)
        assert read_before.state == JobState.QUEUED


def test_a_queued_job_is_cancelled_at_once(database: Database) -> None:
    job_id = submit(database)
    job = write(database, jobs.request_cancel, job_id)
    assert (job.state, job.status_reason["code"]) == ("cancelled", "cancelled_by_user")
    assert job.finished_at is not None
    assert claim(database) is None
    assert [e.data["status"] for e in lines_of(database, job_id)] == ["queued", "cancelled"]


def test_a_cancel_request_on_a_running_job_is_left_for_its_worker(database: Database) -> None:
    lease = running(database)
    assert read(database, queue.requested_stop, lease) is None
    job = write(database, jobs.request_cancel, lease.job_id)
    assert job.state == "running"
    assert read(database, queue.requested_stop, lease) == "cancel"
    first_request = job.cancel_requested_at
    assert first_request is not None
    assert write(database, jobs.request_cancel, lease.job_id).cancel_requested_at == first_request
    statuses = [e.data["status"] for e in lines_of(database, lease.job_id)]
    assert statuses == ["queued", "running", "cancelling"]  # the repeated request had no effect


def test_only_a_cancelled_job_can_be_cancelled_after_its_end(database: Database) -> None:
    job_id = submit(database)
    write(database, jobs.request_cancel, job_id)
    before = all_rows(database)
    assert write(database, jobs.request_cancel, job_id).state == "cancelled"
    assert all_rows(database) == before
    for state in (JobState.SUCCEEDED, JobState.FAILED):
        lease = running(database)
        write(database, queue.finish, lease, state, "done")
        before = all_rows(database)
        with pytest.raises(WrongState, match=f"cannot cancel a job that is {state}") as refused:
            write(database, jobs.request_cancel, lease.job_id)
        allowed = ["delete", "reproduce"] if state is JobState.SUCCEEDED else ["delete", "retry"]
        assert refused.value.extra == {"state": state.value, "allowed": allowed}
        assert all_rows(database) == before


def test_a_job_that_is_not_there_is_not_found(database: Database) -> None:
    for change in (jobs.get, jobs.request_cancel, jobs.request_pause, jobs.resume, jobs.retry, jobs.remove):
        with pytest.raises(NotFound, match="job_0"):
            write(database, change, "job_0")


def test_a_cancel_request_wins_over_the_queue_when_the_worker_is_lost(database: Database) -> None:
    lease = running(database)
    write(database, jobs.request_cancel, lease.job_id)
    assert write(database, queue.mark_lost, lease, "not heard of") is JobState.CANCELLED
    job = job_of(database, lease.job_id)
    assert (job.state, job.status_reason["code"]) == ("cancelled", "cancelled_by_user")
    assert claim(database) is None


def test_a_cancel_request_wins_over_the_queue_when_the_worker_is_drained(database: Database) -> None:
    lease = running(database)
    write(database, jobs.request_cancel, lease.job_id)
    write(database, queue.release, lease, "drained")
    assert job_of(database, lease.job_id).state == "cancelled"
    assert claim(database) is None


def test_of_a_claim_and_a_cancel_at_the_same_moment_either_order_is_whole(database: Database) -> None:
    for _ in range(ROUNDS // 2):
        job_id = submit(database)
        claimed, _ = at_once(lambda: claim(database), lambda j=job_id: write(database, jobs.request_cancel, j))
        job = job_of(database, job_id)
        assert job.cancel_requested_at is not None
        assert job.state == ("cancelled" if claimed is None else "running")
        statuses = [e.data["status"] for e in lines_of(database, job_id, "status")]
        assert statuses == (["queued", "cancelled"] if claimed is None else ["queued", "running", "cancelling"])
        if claimed is not None:
            write(database, queue.finish, queue.lease_of(claimed), JobState.CANCELLED, "cancelled")


# --- pause ------------------------------------------------------------------------------------------------------------


def test_a_pause_request_is_left_for_the_worker_and_applied_once(database: Database) -> None:
    lease = running(database)
    job = write(database, jobs.request_pause, lease.job_id)
    assert (job.state, jobs.status_of(job)) == ("running", "pausing")
    assert read(database, queue.requested_stop, lease) == "pause"
    first_request = job.pause_requested_at
    assert write(database, jobs.request_pause, lease.job_id).pause_requested_at == first_request
    statuses = [e.data["status"] for e in lines_of(database, lease.job_id)]
    assert statuses == ["queued", "running", "pausing"]  # the repeated request had no effect


def test_a_paused_job_has_no_slot_and_stays_paused_until_it_is_resumed(database: Database) -> None:
    lease = running(database, max_attempts=1)
    pause(database, lease)
    job = job_of(database, lease.job_id)
    assert (job.state, job.failures, job.worker) == ("paused", 0, None)
    assert [a.outcome for a in read(database, jobs.attempts_of, job.id)] == ["paused"]
    assert (claim(database), read(database, queue.waiting, {"cpu", "auto"}, 9), standing(database, job.id)) == (
        None,
        0,
        None,
    )
    assert write(database, jobs.request_pause, job.id).state == "paused"  # again: no error
    assert_can_write_nothing(database, lease)
    job = write(database, jobs.resume, job.id)
    assert (job.state, job.pause_requested_at) == ("queued", None)
    again = claim(database)
    assert again is not None
    assert (again.id, again.attempt) == (job.id, 2)  # max_attempts is 1: the pause did not count
    assert read(database, queue.requested_stop, queue.lease_of(again)) is None


def test_a_pause_request_can_be_withdrawn_until_it_is_carried_out(database: Database) -> None:
    lease = running(database)
    write(database, jobs.request_pause, lease.job_id)
    job = write(database, jobs.resume, lease.job_id)
    assert jobs.status_of(job) == "running"
    assert read(database, queue.requested_stop, lease) is None
    write(database, queue.release, lease, "queued again", outcome="paused")  # the trainer had stopped already
    assert job_of(database, lease.job_id).state == "queued"


def test_a_cancel_request_wins_over_a_pause_request_in_either_order(database: Database) -> None:
    for wishes in ((jobs.request_pause, jobs.request_cancel), (jobs.request_cancel,)):
        lease = running(database)
        for wish in wishes:
            write(database, wish, lease.job_id)
        assert read(database, queue.requested_stop, lease) == "cancel"
        for change in (jobs.request_pause, jobs.resume):
            with pytest.raises(WrongState) as refused:
                write(database, change, lease.job_id)
            assert refused.value.extra == {"state": "cancelling", "allowed": ["cancel"]}
        assert write(database, queue.release, lease, "stopped", outcome="paused") is JobState.CANCELLED


def test_a_worker_that_is_lost_or_drained_while_it_pauses_leaves_a_paused_job(database: Database) -> None:
    lost, drained = running(database, max_attempts=3), running(database)
    for lease in (lost, drained):
        write(database, jobs.request_pause, lease.job_id)
    assert write(database, queue.mark_lost, lost, "not heard of") is JobState.PAUSED
    assert write(database, queue.release, drained, "the worker shuts down") is JobState.PAUSED
    assert claim(database) is None
    assert [job_of(database, lease.job_id).failures for lease in (lost, drained)] == [1, 0]
    last = [read(database, jobs.attempts_of, lease.job_id)[-1].outcome for lease in (lost, drained)]
    assert last == ["worker_lost", "paused"]
    write(database, jobs.resume, lost.job_id)
    assert claim(database).id == lost.job_id  # a resumed job has no backoff


def test_the_last_attempt_that_is_lost_while_it_pauses_fails_the_job(database: Database) -> None:
    lease = running(database, max_attempts=1)
    write(database, jobs.request_pause, lease.job_id)
    assert write(database, queue.mark_lost, lease, "not heard of") is JobState.FAILED


def test_a_pause_request_for_a_job_that_ends_first_has_no_effect(database: Database) -> None:
    lease = running(database)
    write(database, jobs.request_pause, lease.job_id)
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done")
    assert jobs.status_of(job_of(database, lease.job_id)) == "succeeded"


@pytest.mark.parametrize("change", [jobs.request_pause, jobs.resume])
def test_what_neither_runs_nor_is_paused_can_not_be_paused_or_resumed(
    database: Database, change: Callable[[Session, str], Job]
) -> None:
    queued, ended = submit(database, priority=1), running(database)
    write(database, queue.finish, ended, JobState.FAILED, "done")
    for job_id, state, allowed in ((queued, "queued", ["cancel"]), (ended.job_id, "failed", ["delete", "retry"])):
        before = all_rows(database)
        with pytest.raises(WrongState) as refused:
            write(database, change, job_id)
        assert refused.value.extra == {"state": state, "allowed": allowed}
        assert all_rows(database) == before


def test_a_running_job_without_a_pause_request_cannot_be_resumed(database: Database) -> None:
    lease = running(database)
    with pytest.raises(WrongState, match="cannot resume a job that is running; allowed now: cancel, pause"):
        write(database, jobs.resume, lease.job_id)


def test_a_paused_job_is_cancelled_at_once(database: Database) -> None:
    lease = running(database)
    pause(database, lease)
    job = write(database, jobs.request_cancel, lease.job_id)
    assert (job.state, job.status_reason["code"]) == ("cancelled", "cancelled_by_user")
    assert job.finished_at is not None


def test_of_a_resume_and_a_worker_that_stops_at_the_same_moment_no_job_is_stuck(database: Database) -> None:
    """A resumed job is in the queue, whichever comes first."""
    for _ in range(ROUNDS // 2):
        lease = running(database)
        write(database, jobs.request_pause, lease.job_id)
        state, _ = at_once(
            lambda held=lease: write(database, queue.release, held, "stopped", outcome="paused"),
            lambda held=lease: write(database, jobs.resume, held.job_id),
        )
        assert state in (JobState.PAUSED, JobState.QUEUED)
        job = job_of(database, lease.job_id)
        assert (job.state, job.pause_requested_at) == ("queued", None)
        assert claim(database).id == lease.job_id


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_retried_job_has_no_result_reason_or_lost_attempts(database: Database, state: JobState) -> None:
    lease = running(database, max_attempts=2)
    write(database, queue.mark_lost, lease, "not heard of")
    again = claim_again(database, lease.job_id)
    checkpoint(database, again, 100, 2)
    write(database, jobs.request_cancel, lease.job_id)
    write(database, queue.finish, again, state, "ended", {"code": "x", "detail": "y"}, {"parameters": 1})
    before = len(lines_of(database, lease.job_id))
    job = write(database, jobs.retry, lease.job_id)
    assert (job.state, job.attempt, job.failures) == ("queued", 2, 0)
    gone = (
        "status_reason",
        "result",
        "finished_at",
        "cancel_requested_at",
        "pause_requested_at",
        "not_before",
        "worker",
    )
    assert [getattr(job, name) for name in gone] == [None] * len(gone)
    (line,) = lines_of(database, lease.job_id)[before:]
    assert (line.type, line.attempt, line.data) == ("status", 2, {"status": "queued"})
    third = claim(database)
    assert (third.id, third.attempt) == (lease.job_id, 3)
    (row,), _ = read(database, queue.resume_point, queue.lease_of(third))
    assert row.step == 100
    assert (
        write(database, queue.mark_lost, queue.lease_of(third), "not heard of") is JobState.QUEUED
    )  # the first of two


def test_only_what_failed_or_was_cancelled_is_tried_again(database: Database) -> None:
    queued, lease = submit(database, priority=1), running(database)
    for job_id, state in ((queued, "queued"), (lease.job_id, "running")):
        with pytest.raises(WrongState, match=f"cannot retry a job that is {state}"):
            write(database, jobs.retry, job_id)
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done")
    before = all_rows(database)
    with pytest.raises(WrongState) as refused:
        write(database, jobs.retry, lease.job_id)
    assert refused.value.extra == {"state": "succeeded", "allowed": ["delete", "reproduce"]}
    assert all_rows(database) == before


def test_of_two_who_try_a_job_again_at_the_same_moment_one_does(database: Database) -> None:
    def retry(job_id: str) -> bool:
        try:
            write(database, jobs.retry, job_id)
        except WrongState:
            return False
        return True

    for _ in range(ROUNDS // 3):
        lease = running(database)
        write(database, queue.finish, lease, JobState.FAILED, "failed")
        assert sorted(at_once(*[lambda j=lease.job_id: retry(j)] * 2)) == [False, True]
        assert claim(database).id == lease.job_id
        assert claim(database) is None


def test_a_change_is_made_in_the_row_and_in_its_spec_and_is_logged_once(database: Database) -> None:
    job_id = submit(database, name="old", labels={"a": "1"})

    def edit(session: Session, **wanted: Any) -> None:
        jobs.edit(session, jobs.lock_job(session, job_id), wanted)

    for _ in range(2):  # the second has no effect
        write(database, edit, name="née", priority=90, labels={"b": "2"})
    job = job_of(database, job_id)
    assert (job.name, job.priority, job.labels) == ("née", 90, {"b": "2"})
    assert [job.spec[name] for name in ("name", "priority", "labels")] == ["née", 90, {"b": "2"}]
    (line,) = lines_of(database, job_id, "log")
    assert line.message == (
        'name changed from "old" to "née"; priority changed from 50 to 90; labels changed from {"a": "1"} to {"b": "2"}'
    )
    assert line.data["changed"]["priority"] == {"from": 50, "to": 90}


@pytest.mark.parametrize("text", ["a", '"', "\U0001f600"])
def test_a_line_about_a_change_of_long_labels_is_short(database: Database, text: str) -> None:
    def labels(first: int) -> dict[str, str]:
        return {f"{first + i}{text * 60}": text * 512 for i in range(16)}

    job_id = submit(database, name=text * 128, labels=labels(0))
    with database.write() as session:
        jobs.edit(session, jobs.lock_job(session, job_id), {"name": "new", "labels": labels(20)})
    (line,) = lines_of(database, job_id, "log")
    assert line.message.startswith("name changed from ")
    assert len(line.message) <= 1024
    assert line.data["changed"]["name"]["to"] == "new"
    assert len(json.dumps(line.data)) < 16_000
    assert job_of(database, job_id).labels == labels(20)


def test_a_change_and_a_claim_at_the_same_moment_lose_neither(database: Database) -> None:
    def edit(session: Session, job_id: str) -> None:
        jobs.edit(session, jobs.lock_job(session, job_id), {"labels": {"a": "1"}})

    for _ in range(ROUNDS // 3):
        job_id = submit(database)
        claimed, _ = at_once(lambda: claim(database), lambda j=job_id: write(database, edit, j))
        if claimed is None:  # a claim skips a locked row
            claim(database)
        job = job_of(database, job_id)
        assert (job.state, job.labels, job.spec["labels"]) == ("running", {"a": "1"}, {"a": "1"})
        assert [line.seq for line in lines_of(database, job_id)] == [1, 2, 3]


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_a_job_has_the_kind_of_its_spec_and_the_name_of_what_it_reproduces(database: Database) -> None:
    original = job_of(database, submit(database))
    assert (original.kind, original.reproduces) == ("training", None)
    assert job_of(database, write(database, jobs.create, GradientCheckSpec.parse({})).id).kind == "gradient_check"
    again = write(database, jobs.create, JobSpec.parse({}), reproduces=original.id)
    assert job_of(database, again.id).reproduces == original.id


def test_a_gradient_check_that_succeeded_has_nothing_to_reproduce(database: Database) -> None:
    write(database, jobs.create, GradientCheckSpec.parse({}))
    job = claim(database)
    write(database, queue.finish, queue.lease_of(job), JobState.SUCCEEDED, "done")
    assert jobs.wrong_state(job_of(database, job.id), "cancel").extra["allowed"] == ["delete"]


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_has_each_point_of_the_curve_once(database: Database) -> None:
    lease = running(database)
    write(database, queue.append, lease, [point("batch", 50, 1.0), point("epoch", 50, 2.0)])
    write(database, queue.append, lease, [point("batch", 50, 9.0), point("batch", 100, 3.0)])
    write(database, queue.append, lease, [point("final", 100, 4.0), point("final", 100, 9.0)])
    rows = lines_of(database, lease.job_id, "metric")
    assert [(row.series, row.step, row.data["metrics"]["loss"]) for row in rows] == [
        ("batch", 50, 1.0),
        ("epoch", 50, 2.0),
        ("batch", 100, 3.0),
        ("final", 100, 4.0),
    ]


def test_lines_that_are_no_points_may_repeat(database: Database) -> None:
    lease = running(database)
    for _ in range(3):
        write(database, queue.append, lease, [Line("log", "again", {})] * 2)
    assert [e.message for e in lines_of(database, lease.job_id, "log")] == ["again"] * 6


def test_the_same_step_of_two_jobs_is_two_points(database: Database) -> None:
    leases = [running(database), running(database)]
    for lease in leases:
        write(database, queue.append, lease, [point("epoch", 1)])
    with database.read() as session:
        assert [[p["step"] for p in joblog.points_of(session, lease.job_id)] for lease in leases] == [[1], [1]]


def test_a_curve_is_read_in_order_piece_by_piece(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblog, "READ_LINES", 4)
    lease = running(database)
    for step in range(1, 11):
        write(database, queue.append, lease, [point("batch", step), Line("log", "between", {})])
    with database.read() as session:
        assert [p["step"] for p in joblog.points_of(session, lease.job_id)] == [*range(1, 11)]


def test_a_second_attempt_s_points_follow_the_first_s(database: Database) -> None:
    first = running(database)
    write(database, queue.append, first, [point("batch", 50), point("batch", 100)])
    write(database, queue.mark_lost, first, "lost")
    second = claim_again(database, first.job_id)
    rows, reported = read(database, queue.resume_point, second)
    assert (rows, reported) == ([], 100)
    write(database, queue.append, second, [point("batch", 100, 9.0), point("batch", 150)])
    rows = lines_of(database, first.job_id, "metric")
    assert [(row.attempt, row.step) for row in rows] == [(1, 50), (1, 100), (2, 150)]


def test_seq_grows_strictly_while_a_worker_appends_and_a_client_cancels(database: Database) -> None:
    lease = running(database)

    def append_many() -> None:
        for i in range(25):
            write(database, queue.append, lease, [Line("log", f"{i}.{k}", {}) for k in range(3)])

    def cancel() -> None:
        for _ in range(5):
            write(database, jobs.request_cancel, lease.job_id)

    def renew() -> None:
        for i in range(25):
            write(database, queue.renew, lease, 60, {"step": i})

    at_once(append_many, cancel, renew)
    rows = lines_of(database, lease.job_id)
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert [row.message for row in rows if row.type == "log"] == [f"{i}.{k}" for i in range(25) for k in range(3)]
    assert sum(row.data.get("status") == "cancelling" for row in rows) == 1
    assert job_of(database, lease.job_id).last_seq == len(rows)


def test_the_log_is_read_from_a_cursor_by_type_and_in_pages(database: Database) -> None:
    lease = running(database)
    write(database, queue.append, lease, [Line("log", str(i), {}) for i in range(5)] + [point("batch", 50)])
    first = read(database, joblog.events_of, lease.job_id, EventFilter(types=("log",)), 3)
    rest = read(database, joblog.events_of, lease.job_id, EventFilter(types=("log",), after=first[-1].seq), 3)
    assert [e.message for e in first + rest] == ["0", "1", "2", "3", "4"]
    assert all(a.seq < b.seq for a, b in pairwise(first + rest))
    assert (
        read(database, joblog.events_of, lease.job_id, EventFilter(after=job_of(database, lease.job_id).last_seq)) == []
    )


def test_a_text_of_any_script_and_a_nested_value_come_back_as_they_went_in(database: Database) -> None:
    lease = running(database)
    data = {"größe": [1, 2.5, None, {"日本": "🚀"}], "tiny": 5e-324}
    write(database, queue.append, lease, [Line("log", "naïve 'quote' \\ % 🚀", data)])
    row = lines_of(database, lease.job_id, "log")[-1]
    assert (row.message, row.data) == ("naïve 'quote' \\ % 🚀", data)
    assert abs(row.created_at - joblog.now()) < timedelta(minutes=1)  # aware, and UTC


# --- checkpoints, artifacts, the end ----------------------------------------------------------------------------------


def checkpoint(database: Database, lease: Lease, step: int, keep_last: int) -> list[str]:
    key = checkpoint_key(lease.job_id, lease.attempt, step)
    file = stored(f"{step}.pt", size=step, key=key)
    return write(database, queue.add_checkpoint, lease, file, step, 1, keep_last)


def test_the_newest_checkpoints_are_kept_and_the_keys_of_the_others_returned(database: Database) -> None:
    lease = running(database)
    key = [checkpoint_key(lease.job_id, 1, step) for step in range(5)]
    assert [checkpoint(database, lease, step, keep_last=2) for step in (1, 2, 3)] == [[], [], [key[1]]]
    assert checkpoint(database, lease, 4, keep_last=1) == [key[3], key[2]]
    rows, _ = read(database, queue.resume_point, lease)
    assert [(row.step, row.key) for row in rows] == [(4, key[4])]


def test_a_checkpoint_made_again_takes_the_place_of_the_one_before(database: Database) -> None:
    first = running(database)
    checkpoint(database, first, 10, 2)
    checkpoint(database, first, 20, 2)
    write(database, queue.mark_lost, first, "lost")
    second = claim_again(database, first.job_id)
    freed = checkpoint(database, second, 20, 2)
    rows, _ = read(database, queue.resume_point, second)
    assert [(row.step, row.attempt) for row in rows] == [(20, 2), (10, 1)]
    assert freed == [checkpoint_key(first.job_id, 1, 20)]  # otherwise its file would never be deleted


def test_an_attempt_says_from_where_it_went_on(database: Database) -> None:
    lease = running(database)
    write(database, queue.note_resumed, lease, 40)
    assert [a.resumed_from_step for a in read(database, jobs.attempts_of, lease.job_id)] == [40]


def test_a_finished_job_has_its_result_its_files_and_one_last_line(database: Database) -> None:
    lease = running(database)
    files = [stored("model.json", 10), stored("spec.json", 5)]
    result, progress = {"test_accuracy": 0.9}, {"step": 100}
    write(database, queue.finish, lease, JobState.SUCCEEDED, "done", None, result, progress, files)
    job = job_of(database, lease.job_id)
    assert (job.result, job.progress, job.status_reason) == (result, progress, None)
    assert [a.name for a in read(database, jobs.artifacts_of, job.id)] == ["model.json", "spec.json"]
    assert read(database, jobs.artifact, job.id, "spec.json").size_bytes == 5
    with pytest.raises(NotFound, match="nothing.json"):
        read(database, jobs.artifact, job.id, "nothing.json")
    tail = [(e.type, e.message) for e in lines_of(database, job.id)][-3:]
    assert tail == [("artifact", "stored model.json"), ("artifact", "stored spec.json"), ("status", "done")]
    assert [a.outcome for a in read(database, jobs.attempts_of, job.id)] == ["succeeded"]


def test_a_job_that_may_still_move_is_not_removed(database: Database) -> None:
    queued = submit(database, priority=1)
    lease = running(database)
    paused = running(database, priority=60)
    pause(database, paused)
    for job_id, state, allowed in (
        (queued, "queued", ["cancel"]),
        (lease.job_id, "running", ["cancel", "pause"]),
        (paused.job_id, "paused", ["cancel", "pause", "resume"]),
    ):
        before = all_rows(database)
        with pytest.raises(WrongState, match=f"cannot delete a job that is {state}") as refused:
            write(database, jobs.remove, job_id)
        assert refused.value.extra == {"state": state, "allowed": allowed}
        assert all_rows(database) == before


def test_removing_a_job_leaves_no_row_of_it(database: Database) -> None:
    def finished() -> str:
        lease = running(database)
        checkpoint(database, lease, 100, 2)
        checkpoint(database, lease, 200, 2)
        files = [
            stored("a", 7, artifact_key(lease.job_id, 1, "a")),
            stored("b", 13, artifact_key(lease.job_id, 1, "b")),
        ]
        write(database, queue.finish, lease, JobState.SUCCEEDED, "done", files=files)
        return lease.job_id

    kept, removed = finished(), finished()
    write(database, jobs.remove, removed)
    with database.read() as session:
        for table in (EventRow, ArtifactRow, CheckpointRow, Attempt):
            counted = dict(session.execute(select(table.job_id, func.count()).group_by(table.job_id)).all())
            assert counted.get(kept, 0) > 0, table
            assert removed not in counted, table
    with pytest.raises(NotFound):
        job_of(database, removed)
    assert job_of(database, kept).state == "succeeded"


# --- ids --------------------------------------------------------------------------------------------------------------


def test_ids_sort_by_time() -> None:
    made = [jobs.new_id("job") for _ in range(1000)]
    assert made == sorted(made)
    assert len(set(made)) == 1000
    assert all(job_id.startswith("job_") and len(job_id) <= 40 for job_id in made)
