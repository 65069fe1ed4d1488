"""What must hold after a campaign: one function per check, each yielding the violations that it finds.

The store is read through ArtifactStore, so the checks are the same for a folder and for S3.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from faults.field import Field, words_of
from faults.stream import Stream, curve_of
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session
from support.disk import FILLER

from shared.artifacts import DATASETS, ArtifactStore
from shared.datasets.catalog import DATASETS as DATASETS_BUILT_IN
from shared.db.database import Database
from shared.db.tables import ArtifactRow, Attempt, AuditRow, CheckpointRow, DatasetRow, EventRow, IdempotencyKey, Job
from shared.events import UNDRAWN
from shared.jobs import joblog, jobs
from shared.jobs.curves import to_series
from shared.jobs.retry_backoff import OUTAGES
from shared.jobs.states import TERMINAL
from worker.folder_cache import MUTEX

LOST = {"worker_lost", "trainer_died"}  # outcomes of a lost attempt, which count towards `max_attempts`
RELEASED = {"drained", *OUTAGES}  # outcomes of an attempt that does not count
INDEXES = """
    SELECT bt_index_check(index.oid, true) FROM pg_class index JOIN pg_am am ON am.oid = index.relam
    WHERE am.amname = 'btree' AND index.relkind = 'i' AND index.relnamespace = 'public'::regnamespace"""
TABLES = """
    SELECT msg FROM pg_class heap, LATERAL verify_heapam(heap.oid)
    WHERE heap.relkind = 'r' AND heap.relnamespace = 'public'::regnamespace"""


def audit(field: Field, stream: Stream) -> list[str]:
    """Every violation in rows, files and database. To be called when every job has ended."""
    database = Database(field.address())
    store = field.store()
    try:
        with database.read() as session:
            found = list(session.scalars(select(Job).order_by(Job.id)))
            print("attempts:", outcomes(session), flush=True)
            wrong = [*_accepted(found, stream), *_deleted(found, stream), *_is_remembered(session, stream)]
            for job in found:
                wrong += [f"{job.id} ({job.name}): {said}" for said in audit_job(session, job, stream, store)]
            for row in session.scalars(select(DatasetRow)):
                wrong += [f"dataset {row.id}: {said}" for said in _dataset_is_whole(row, store)]
        wrong += _database_is_whole(database)
    finally:
        database.close()
    return wrong


def audit_job(session: Session, job: Job, stream: Stream, store: ArtifactStore) -> list[str]:
    """The violations in the rows and files of one job that has ended."""
    events = joblog.events_of(session, job.id, limit=1_000_000)
    attempts = list(jobs.attempts_of(session, job.id))
    checks = (
        *(_ended_once(job, events), _attempts_are_counted(job, attempts, events), _one_writer_at_a_time(events)),
        *(_as_undisturbed(job, events, stream), _files_are_whole(session, job, store)),
    )
    return [said for check in checks for said in check]


def outcomes(session: Session) -> str:
    """How many attempts ended in each way: a campaign without lost attempts would show nothing."""
    query = select(Attempt.outcome, func.count()).group_by(Attempt.outcome).order_by(func.count().desc())
    return ", ".join(f"{count} {outcome}" for outcome, count in session.execute(query))


def _accepted(found: list[Job], stream: Stream) -> Iterator[str]:
    """Every job with a 202 response exists, unless it was deleted, and no other: each submission took effect once."""
    accepted = stream.accepted.keys() | stream.to_fail
    for job_id in accepted - stream.deleted - stream.to_delete - {job.id for job in found}:
        yield f"{job_id} was accepted, but does not exist"
    for job in found:
        if job.id not in accepted:
            yield f"{job.id} ({job.name}) exists, but is no submission's"
    for key in stream.pending:
        yield f"the submission with the key {key} was never answered"


def _deleted(found: list[Job], stream: Stream) -> Iterator[str]:
    for job in found:
        if job.id in stream.deleted:
            yield f"{job.id} was deleted, but exists"
    for job_id in stream.to_delete:
        yield f"the deletion of {job_id} was never answered"


def _is_remembered(session: Session, stream: Stream) -> Iterator[str]:
    """Each submission and each deletion has its audit row, and the answer to each Idempotency-Key is kept, whatever
    the clock showed meanwhile."""
    noted = Counter(
        (action, object_id) for action, object_id in session.execute(select(AuditRow.action, AuditRow.object_id))
    )
    for job_id in stream.keys.values():
        if (number := noted["jobs.submit", job_id]) != 1:
            yield f"{job_id} was submitted once, but the audit log says so {number} times"
    for job_id in stream.deleted:
        if (number := noted["jobs.delete", job_id] + noted["bulk.delete", job_id]) != 1:
            yield f"{job_id} was deleted once, but the audit log says so {number} times"
    kept = {row.key: row for row in session.scalars(select(IdempotencyKey))}
    for key, job_id in stream.keys.items():
        if (row := kept.get(key)) is None:
            yield f"the answer kept for the key {key} of {job_id} is gone"
        elif job_id not in (row.body or ""):
            yield f"the answer kept for the key {key} is not of {job_id}"


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


def _attempts_are_counted(job: Job, attempts: list[Attempt], events: list[EventRow]) -> Iterator[str]:
    """Lost attempts count, and no others: an outage of store, disk or database costs none."""
    if [attempt.number for attempt in attempts] != list(range(1, job.attempt + 1)):
        yield f"has {job.attempt} attempts, but rows of {[attempt.number for attempt in attempts]}"
        return
    for attempt in attempts:
        allowed = {job.state} if attempt.number == job.attempt else LOST | RELEASED
        if attempt.outcome not in allowed:
            yield (
                f"attempt {attempt.number} of {job.attempt} ended as {attempt.outcome}; the job is {job.state}"
                f"{_last_words(attempt.number, events)}"
            )
        if attempt.finished_at is None:
            yield f"attempt {attempt.number} has no end"
    lost = sum(attempt.outcome in LOST for attempt in attempts)
    if lost != job.failures:
        yield f"{lost} attempts were lost, but {job.failures} were counted: {[one.outcome for one in attempts]}"


def _last_words(attempt: int, events: list[EventRow]) -> str:
    said = [event.message for event in events if event.attempt == attempt and event.type == "status"]
    return f": {said[-1][:200]}" if said else ""


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
    """Each row has its file with the recorded sha256. `strays` finds files without a row."""
    rows: list[ArtifactRow | CheckpointRow] = [*jobs.artifacts_of(session, job.id)]
    rows += session.scalars(select(CheckpointRow).where(CheckpointRow.job_id == job.id))
    for row in rows:
        recorded = row.sha256 if isinstance(row, ArtifactRow) else None  # a fault truncates checkpoints
        yield from _file_is_whole(store, row.key, recorded)
    if job.state == "succeeded" and not any(row.key.endswith("/model.safetensors") for row in rows):
        yield "has no model"


def _dataset_is_whole(row: DatasetRow, store: ArtifactStore) -> Iterator[str]:
    for name, file in row.files.items():
        yield from _file_is_whole(store, f"{row.folder}/{name}", file["sha256"])


def _file_is_whole(store: ArtifactStore, key: str, sha256: str | None) -> Iterator[str]:
    try:
        with store.open(key) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        yield f"{key} is missing"
        return
    if sha256 not in (None, found):
        yield f"{key} differs from its stored sha256"


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
    """What is left when every job has ended and the service still runs: files without rows in the store; jobs whose
    pictures are not drawn; in each host's folders whatever belongs to a job or to a request; trainers."""
    database = Database(field.address())
    try:
        with database.read() as session:
            strays = list(_strays(session, field.store()))
            undrawn = session.scalars(select(ArtifactRow.job_id).where(ArtifactRow.name == UNDRAWN)).all()
            datasets = set(session.scalars(select(DatasetRow.id)))
    finally:
        database.close()
    return [
        *strays,
        *(f"the pictures of {job_id} are not drawn" for job_id in undrawn),
        *(f"trainer {process.pid}" for process in field.trainers()),
        *(said for state in field.states for said in _in_folders(state, datasets)),
    ]


def _strays(session: Session, store: ArtifactStore) -> Iterator[str]:
    """Files in the store that no row names, and folders of jobs or datasets that do not exist."""
    named = {key for table in (ArtifactRow, CheckpointRow) for key in session.scalars(select(table.key))}
    folders, known = {DATASETS}, set(session.scalars(select(Job.id)))
    for row in session.scalars(select(DatasetRow)):
        named |= {f"{row.folder}/{name}" for name in row.files}
    for key in sorted(keys_in(store) - named):
        yield f"{key} is an orphan: no row names it"
    if (folder := store.local_path("")) is not None:
        for path in sorted(folder.iterdir()):
            if path.name not in known | folders and path.is_dir():
                yield f"{path.name} in the artifact store belongs to no job"


def keys_in(store: ArtifactStore) -> set[str]:
    """The keys of all files in the store, including partially written ones."""
    root = f"{store.root.rstrip('/')}/"
    return {str(path).removeprefix(root) for path in store.fs.find(store.root)} - {FILLER}


def _in_folders(state: Path, datasets: Iterable[str]) -> Iterator[str]:
    """What is in the folders for runs, uploads and cached datasets of one host, and should not be."""
    for name, noun in (("runs", "run folder"), ("uploads", "upload")):
        for path in _entries(state / name):
            yield f"{noun} {path.name} in {state.name}"
    # also temporary folders of processes that were killed, which go when the next one is made
    known = {MUTEX, *(f"{dot}{name}" for dot in ("", ".") for name in (*datasets, *DATASETS_BUILT_IN))}
    for path in _entries(state / "cache"):
        if path.name.partition("-")[0] not in known:
            yield f"cached {path.name} in {state.name}"


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name != FILLER) if folder.is_dir() else []


def orphans(field: Field) -> list[str]:
    """Processes that still run when the service has been stopped."""
    return [f"orphan {process.pid}: {' '.join(words_of(process))[:80]}" for process in field.processes()]
