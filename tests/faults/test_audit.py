"""The audit finds each violation that it checks for: first a correct job, then the same job with one violation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.audit import audit
from faults.stream import Stream, Undisturbed
from sqlalchemy import delete, update
from support.store import claim_again, running, write

from shared.artifacts import ArtifactStore, artifact_key
from shared.db.database import Database
from shared.db.tables import ArtifactRow, Attempt, EventRow, Job
from shared.jobs import joblog, jobs, queue
from shared.jobs.states import JobState

KIND = "a kind of job"


@pytest.fixture
def field(tmp_path: Path, new_sqlite: Callable[[str], Database]) -> Any:
    """The parts of a field that an audit reads."""
    database = new_sqlite(f"sqlite:///{tmp_path / 'gradq.db'}")
    (tmp_path / "artifacts").mkdir()
    yield SimpleNamespace(state=tmp_path, address=lambda: database.url, database=database)
    database.close()


@pytest.fixture
def stream(field: Any) -> Stream:
    """A job whose first attempt was lost and whose second succeeded."""
    database = field.database
    first = running(database, name=KIND, max_attempts=5)
    write(database, queue.append, first, [loss_at(50), loss_at(100)])
    write(database, queue.mark_lost, first, "lost", "trainer_died")
    second = claim_again(database, first.job_id)
    write(database, queue.append, second, [loss_at(150)])
    model = field.state / "model.safetensors"
    model.write_text("weights")
    file = ArtifactStore(f"file://{field.state}/artifacts").put(artifact_key(first.job_id, 2, model.name), model)
    result = {"weights_sha256": "w"}
    write(database, queue.finish, second, JobState.SUCCEEDED, "done", result=result, files=[file])
    stream = Stream(field, seed=1)
    stream.accepted[first.job_id] = KIND
    stream.known[KIND] = Undisturbed("w", {"loss": [[50, 1, 1.0], [100, 1, 1.0], [150, 1, 1.0]]})
    return stream


def loss_at(step: int) -> joblog.Line:
    data = {"step": step, "epoch": 1, "series": "batch", "metrics": {"loss": 1.0}}
    return joblog.Line("metric", f"step {step}", data, series="batch", step=step)


def test_a_job_that_was_lost_once_and_succeeded_is_correct(field: Any, stream: Stream) -> None:
    assert audit(field, stream) == []


def changed(table: Any, **values: Any) -> Callable[[Any], None]:
    """Change every row of a table directly."""
    return lambda field: write(field.database, lambda session: session.execute(update(table).values(**values)))


def gone(table: Any, *where: Any) -> Callable[[Any], None]:
    return lambda field: write(field.database, lambda session: session.execute(delete(table).where(*where)))


def another_end(field: Any) -> None:
    def add(session: Any) -> None:
        job = session.scalar(jobs.select(Job))
        joblog.add_line(session, job.id, joblog.status_line(JobState.SUCCEEDED, "again"))

    write(field.database, add)


def orphan(field: Any) -> None:
    (job,) = (field.state / "artifacts").iterdir()
    (job / "1").mkdir()
    (job / "1" / "model.json.part").write_text("{")


def unknown_folder(field: Any) -> None:
    (field.state / "artifacts" / "job_unknown").mkdir()


def damaged(field: Any) -> None:
    (path,) = (field.state / "artifacts").rglob("model.safetensors")
    path.write_text("other weights")


def missing(field: Any) -> None:
    (path,) = (field.state / "artifacts").rglob("model.safetensors")
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (changed(Job, state="running"), "is running"),
        (changed(Job, lease_token="t"), "still has a lease"),
        (another_end, "its log says ['succeeded', 'succeeded']"),
        (gone(EventRow, EventRow.message == "done"), "its log says []"),
        (changed(Attempt, outcome="succeeded"), "attempt 1 of 2 ended as succeeded"),
        (changed(Attempt, finished_at=None), "attempt 1 has no end"),
        (gone(Attempt, Attempt.number == 1), "has 2 attempts, but rows of [2]"),
        (changed(Job, failures=3), "1 attempts were lost, but 3 were counted"),
        (gone(EventRow, EventRow.step == 100), "loss has 2 points, undisturbed 3"),
        (changed(Job, result={"weights_sha256": "v"}), "ended with the weights v"),
        (changed(Job, state="failed"), "is failed"),
        (gone(ArtifactRow), "has no model"),
        (orphan, "1/model.json.part is an orphan"),
        (unknown_folder, "job_unknown in the artifact store belongs to no job"),
        (damaged, "model.safetensors differs from its stored sha256"),
        (missing, "model.safetensors is missing"),
    ],
)
def test_each_violation_is_found(field: Any, stream: Stream, harm: Callable[[Any], None], said: str) -> None:
    harm(field)
    assert [wrong for wrong in audit(field, stream) if said in wrong], audit(field, stream)


def test_an_accepted_job_that_is_missing_is_found(field: Any, stream: Stream) -> None:
    stream.accepted["job_that_was_promised"] = KIND
    assert audit(field, stream) == ["job_that_was_promised was accepted, but does not exist"]


def test_an_attempt_that_writes_after_the_next_has_begun_is_found(field: Any, stream: Stream) -> None:
    last = update(EventRow).where(EventRow.message == "done").values(attempt=1)
    write(field.database, lambda session: session.execute(last))
    assert "an attempt wrote after the next had begun" in audit(field, stream)[0]


def test_a_job_that_should_have_failed_and_did_not_is_found(field: Any, stream: Stream) -> None:
    (job_id,) = stream.accepted
    stream.to_fail[job_id] = "out_of_memory_host"
    assert "should have failed with out_of_memory_host: is succeeded" in audit(field, stream)[0]
