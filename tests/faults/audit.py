"""What must hold after a campaign: one function per check, each yielding the violations that it finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from faults.field import Field, words_of
from faults.stream import Stream, curve_of
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from shared.artifacts import ArtifactStore, sha256_of
from shared.db.database import Database
from shared.db.tables import ArtifactRow, Attempt, CheckpointRow, EventRow, Job
from shared.jobs import joblog, jobs
from shared.jobs.curves import to_series
from shared.jobs.states import TERMINAL

LOST = {"worker_lost", "trainer_died", "disk_full", "internal_error"}  # outcomes of a lost attempt
RELEASED = {"drained"}
INDEXES = """
    SELECT bt_index_check(index.oid, true) FROM pg_class index JOIN pg_am am ON am.oid = index.relam
    WHERE am.amname = 'btree' AND index.relkind = 'i' AND index.relnamespace = 'public'::regnamespace"""
TABLES = """
    SELECT msg FROM pg_class heap, LATERAL verify_heapam(heap.oid)
    WHERE heap.relkind = 'r' AND heap.relnamespace = 'public'::regnamespace"""


def audit(field: Field, stream: Stream) -> list[str]:
    """Every violation in rows, files and database. To be called when every job has ended."""
    database = Database(field.address())
    store = ArtifactStore(f"file://{field.state / 'artifacts'}")
    try:
        with database.read() as session:
            found = list(session.scalars(select(Job).order_by(Job.id)))
            print("attempts:", outcomes(session), flush=True)
            wrong = list(_accepted(found, stream))
            for job in found:
                events = joblog.events_of(session, job.id, limit=1_000_000)
                attempts = list(jobs.attempts_of(session, job.id))
                checks = (
                    *(_ended_once(job, events), _attempts_are_counted(job, attempts), _one_writer_at_a_time(events)),
                    *(_as_undisturbed(job, events, stream), _files_are_whole(session, job, store)),
                )
                wrong += [f"{job.id} ({job.name}): {said}" for check in checks for said in check]
        wrong += _no_unknown_folders(store, {job.id for job in found})
        wrong += _database_is_whole(database)
    finally:
        database.close()
    return wrong


def outcomes(session: Session) -> str:
    """How many attempts ended in each way: a campaign without lost attempts would show nothing."""
    query = select(Attempt.outcome, func.count()).group_by(Attempt.outcome).order_by(func.count().desc())
    return ", ".join(f"{count} {outcome}" for outcome, count in session.execute(query))


def _accepted(found: list[Job], stream: Stream) -> Iterator[str]:
    """Every job with a 202 response exists. (There may be more jobs: the API may die before it responds.)"""
    for job_id in (stream.accepted.keys() | stream.to_fail) - {job.id for job in found}:
        yield f"{job_id} was accepted, but does not exist"


def _ended_once(job: Job, events: list[EventRow]) -> Iterator[str]:
    ends = [event for event in events if event.type == "status" and event.data["status"] in TERMINAL]
    if job.state not in TERMINAL:
        yield f"is {job.state}"
    elif [event.data["status"] for event in ends] != [job.state]:
        yield f"is {job.state}, but its log says {[event.data['status'] for event in ends]}"
    elif ends[0].seq != max(event.seq for event in events):
        yield "has log lines after its end"
    if job.lease_token is not None or job.lease_until is not None:
        yield "still has a lease"


def _attempts_are_counted(job: Job, attempts: list[Attempt]) -> Iterator[str]:
    if [attempt.number for attempt in attempts] != list(range(1, job.attempt + 1)):
        yield f"has {job.attempt} attempts, but rows of {[attempt.number for attempt in attempts]}"
        return
    for attempt in attempts:
        allowed = {job.state} if attempt.number == job.attempt else LOST | RELEASED
        if attempt.outcome not in allowed:
            yield f"attempt {attempt.number} of {job.attempt} ended as {attempt.outcome}; the job is {job.state}"
        if attempt.finished_at is None:
            yield f"attempt {attempt.number} has no end"
    lost = sum(attempt.outcome in LOST for attempt in attempts)
    if lost != job.failures:
        yield f"{lost} attempts were lost, but {job.failures} were counted"


def _one_writer_at_a_time(events: list[EventRow]) -> Iterator[str]:
    """Once an attempt has begun, earlier attempts write nothing."""
    numbers = [event.attempt for event in events]
    if numbers != sorted(numbers):
        yield f"an attempt wrote after the next had begun: {numbers}"


def _as_undisturbed(job: Job, events: list[EventRow], stream: Stream) -> Iterator[str]:
    code = job.status_reason and job.status_reason["code"]
    if job.id in stream.to_fail:
        if (job.state, code) != ("failed", stream.to_fail[job.id]):
            yield f"should have failed with {stream.to_fail[job.id]}: is {job.state}, {job.status_reason}"
        return
    known = stream.known.get(job.name)
    if known is None:  # a job that must fail, accepted without a response
        return
    if job.state != "succeeded" or job.result is None:
        yield f"is {job.state}: {job.status_reason}"
        return
    if job.result["weights_sha256"] != known.weights_sha256:
        yield f"ended with the weights {job.result['weights_sha256'][:12]}…, undisturbed: {known.weights_sha256[:12]}…"
    points = [(e.data["step"], e.data["epoch"], e.data["metrics"]) for e in events if e.type == "metric"]
    curve = {name: [list(point) for point in points] for name, points in curve_of(to_series(points)).items()}
    for name in known.curve.keys() | curve:
        if (found := curve.get(name, [])) != (expected := known.curve.get(name, [])):
            yield f"{name} has {len(found)} points, undisturbed {len(expected)}: {first_difference(found, expected)}"


def first_difference(found: list[Any], expected: list[Any]) -> str:
    for one, other in zip(found, expected, strict=False):
        if one != other:
            return f"first difference: {one}, undisturbed {other}"
    return "the shorter is a prefix of the longer"


def _files_are_whole(session: Session, job: Job, store: ArtifactStore) -> Iterator[str]:
    """Each row has its file with the recorded sha256, and each file has its row."""
    rows: list[ArtifactRow | CheckpointRow] = [*jobs.artifacts_of(session, job.id)]
    rows += session.scalars(select(CheckpointRow).where(CheckpointRow.job_id == job.id))
    for row in rows:
        path = store.local_path(row.key)
        assert path is not None
        if not path.is_file():
            yield f"{row.key} is missing"
        elif isinstance(row, ArtifactRow) and sha256_of(path) != row.sha256:  # a fault truncates checkpoints
            yield f"{row.key} differs from its stored sha256"
    for key in set(store.keys_of(job.id)) - {row.key for row in rows}:
        yield f"{key} is an orphan"
    if job.state == "succeeded" and not any(row.key.endswith("/model.safetensors") for row in rows):
        yield "has no model"


def _no_unknown_folders(store: ArtifactStore, known: set[str]) -> Iterator[str]:
    folder = store.local_path("")
    assert folder is not None
    for path in folder.iterdir():
        if path.name not in known:
            yield f"{path.name} in the artifact store belongs to no job"


def _database_is_whole(database: Database) -> Iterator[str]:
    with database.engine.connect() as connection:
        if database.is_sqlite:
            for check in ("quick_check", "foreign_key_check"):
                said = [row[0] for row in connection.execute(text(f"PRAGMA {check}"))]
                if said not in ([], ["ok"]):
                    yield f"PRAGMA {check}: {said}"
            return
        try:
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS amcheck"))
            connection.execute(text(INDEXES))
            for row in connection.execute(text(TABLES)):
                yield f"verify_heapam: {row[0]}"
        except Exception as error:
            if isinstance(
                getattr(error, "orig", None), psycopg.errors.UndefinedFile | psycopg.errors.FeatureNotSupported
            ):
                print("  not checked: PostgreSQL's amcheck is not installed", flush=True)
            else:
                yield f"amcheck: {error}"


def leftovers(field: Field) -> list[str]:
    """Run folders and trainers that are left when every job has ended and the service still runs."""
    runs: list[Path] = [path for path in (field.state / "runs").glob("*") if not path.name.startswith(".")]
    return [f"run folder {path.name}" for path in runs] + [f"trainer {process.pid}" for process in field.trainers()]


def orphans(field: Field) -> list[str]:
    """Processes that still run when the service has been stopped."""
    return [f"orphan {process.pid}: {' '.join(words_of(process))[:80]}" for process in field.processes()]
