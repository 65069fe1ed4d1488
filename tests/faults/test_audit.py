"""The audit finds each violation that it checks for: first a correct job, then the same job with one violation.

The checks of files run on a folder, and on a store that is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from faults import field as fields
from faults.audit import audit, leftovers
from faults.campaign import shortened
from faults.field import Field
from faults.health import Away, Probe, summary, unexcused, violations
from faults.stream import Stream, Undisturbed
from sqlalchemy import delete, update
from support.store import claim_again, running, write

from shared import idempotency
from shared.artifacts import ArtifactStore, artifact_key, dataset_folder
from shared.audit import HOST, note
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.db.tables import ArtifactRow, Attempt, AuditRow, DatasetRow, EventRow, IdempotencyKey, Job
from shared.idempotency import Claim, Settled
from shared.jobs import joblog, jobs, queue
from shared.jobs.states import JobState

KIND = "a kind of job"


@pytest.fixture
def field(request: pytest.FixtureRequest, tmp_path: Path, new_sqlite: Callable[[str], Database]) -> Any:
    """The parts of a field that an audit reads, with the store in a folder or, as S3's, in none."""
    database = new_sqlite(f"sqlite:///{tmp_path / 'gradq.db'}")
    (tmp_path / "artifacts").mkdir()
    kind = getattr(request, "param", "folder")
    url = f"file://{tmp_path}/artifacts" if kind == "folder" else f"memory://{tmp_path.name}"
    yield SimpleNamespace(
        state=tmp_path,
        states=[tmp_path],
        address=lambda: database.url,
        database=database,
        store=lambda: ArtifactStore(url),
        trainers=lambda: [],
    )
    database.close()


@pytest.fixture
def stream(field: Any) -> Stream:
    """A job whose first attempt was lost, whose second waited for the store, and whose third succeeded; a dataset; and
    a job that was deleted."""
    database, store = field.database, field.store()
    first = running(database, name=KIND, max_attempts=5)
    write(database, queue.append, first, [loss_at(50), loss_at(100)])
    write(database, queue.mark_lost, first, "lost", "trainer_died")
    second = claim_again(database, first.job_id)
    write(database, queue.release, second, "the store is away", "store_unavailable")
    third = claim_again(database, first.job_id)
    write(database, queue.append, third, [loss_at(150)])
    file = put(field, artifact_key(first.job_id, 3, "model.safetensors"), "weights")
    result = {"weights_sha256": "w"}
    write(database, queue.finish, third, JobState.SUCCEEDED, "done", result=result, files=[file])
    folder = dataset_folder("ds_1")
    images = put(field, f"{folder}/x_train.npy", "images")
    write(database, dataset_store.add, "ds_1", DATASETS["digits"], "0" * 64, {}, folder, [images])
    stream = Stream(field, seed=1)
    stream.known[KIND] = Undisturbed("w", {"loss": [[50, 1, 1.0], [100, 1, 1.0], [150, 1, 1.0]]})
    for key, job_id in (("key", first.job_id), ("key of the deleted", "job_deleted")):
        stream.accepted[job_id], stream.keys[key] = KIND, job_id
        claim = write(database, idempotency.claim, key, "fingerprint")
        assert isinstance(claim, Claim)
        write(database, idempotency.settle, claim, Settled(202, {}, f'{{"id": "{job_id}"}}'))
        write(database, note, HOST, "jobs.submit", job_id, 202)
    write(database, note, HOST, "jobs.delete", "job_deleted", 200)
    stream.deleted.add("job_deleted")
    assert store.has(file.key)
    return stream


def put(field: Any, key: str, content: str) -> Any:
    path = field.state / key.rpartition("/")[2]
    path.write_text(content)
    stored = field.store().put(key, path)
    path.unlink()
    return stored


def found(field: Any, stream: Stream) -> list[str]:
    return audit(field, stream) + leftovers(field)


def loss_at(step: int) -> joblog.Line:
    data = {"step": step, "epoch": 1, "series": "batch", "metrics": {"loss": 1.0}}
    return joblog.Line("metric", f"step {step}", data, series="batch", step=step)


@pytest.mark.parametrize("field", ["folder", "memory"], indirect=True)
def test_a_job_that_was_lost_once_and_succeeded_is_correct(field: Any, stream: Stream) -> None:
    assert found(field, stream) == []


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


def job_folder(field: Any) -> str:
    (key,) = (key for key in files(field) if key.startswith("job_"))
    return key.partition("/")[0]


def files(field: Any) -> list[str]:
    store = field.store()
    root = f"{store.root.rstrip('/')}/"
    return [path.removeprefix(root) for path in store.fs.find(store.root)]


def half_stored(field: Any) -> None:
    put(field, f"{job_folder(field)}/1/model.json.part", "{")


def file_of_a_deleted_job(field: Any) -> None:
    put(field, "job_unknown/1/model.json", "{")


def file_of_a_deleted_dataset(field: Any) -> None:
    put(field, f"{dataset_folder('ds_2')}/x_train.npy", "{")


def second_copy_of_a_dataset(field: Any) -> None:
    put(field, f"{dataset_folder('ds_1')}/x_train.npy", "images")


def stray(field: Any) -> None:
    put(field, "x.part", "{")


def path_of(field: Any, name: str) -> str:
    (path,) = (path for path in field.store().fs.find(field.store().root) if path.endswith(name))
    return str(path)


def damaged(name: str) -> Callable[[Any], None]:
    return lambda field: field.store().fs.pipe_file(path_of(field, name), b"other content")


def missing(name: str) -> Callable[[Any], None]:
    return lambda field: field.store().fs.rm_file(path_of(field, name))


def left_in(folder: str) -> Callable[[Any], None]:
    """A folder on a host's disk."""
    return lambda field: (field.state / folder).mkdir(parents=True)


def released_as(outcome: str) -> Callable[[Any], None]:
    """The released attempt counts as if it was lost, with this outcome."""

    def change(session: Any) -> None:
        session.execute(update(Attempt).where(Attempt.number == 2).values(outcome=outcome))
        session.execute(update(Job).values(failures=2))

    return lambda field: write(field.database, change)


def submitted_twice(field: Any) -> None:
    """A second job for one submission."""
    lease = running(field.database, name=KIND)
    write(field.database, queue.finish, lease, JobState.FAILED, "failed", {"code": "internal_error", "detail": ""})


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (changed(Job, state="running"), "is running"),
        (changed(Job, lease_token="t"), "still has a lease"),
        (another_end, "its log says ['succeeded', 'succeeded']"),
        (gone(EventRow, EventRow.message == "done"), "its log says []"),
        (changed(Attempt, outcome="succeeded"), "attempt 1 of 3 ended as succeeded"),
        (changed(Attempt, outcome="internal_error"), "attempt 2 of 3 ended as internal_error"),
        (changed(Attempt, finished_at=None), "attempt 1 has no end"),
        (gone(Attempt, Attempt.number == 1), "has 3 attempts, but rows of [2, 3]"),
        (changed(Job, failures=3), "1 attempts were lost, but 3 were counted"),
        (
            released_as("disk_full"),
            "1 attempts were lost, but 2 were counted: ['trainer_died', 'disk_full', 'succeeded']",
        ),
        (released_as("store_unavailable"), "1 attempts were lost, but 2 were counted"),
        (gone(EventRow, EventRow.step == 100), "loss has 2 points, undisturbed 3"),
        (changed(Job, result={"weights_sha256": "v"}), "ended with the weights v"),
        (changed(Job, state="failed"), "is failed"),
        (gone(ArtifactRow), "has no model"),
        (left_in("runs/job_1-2"), "run folder job_1-2"),
        (left_in("uploads/new-1"), "upload new-1"),
        (left_in("cache/ds_2-0"), "cached ds_2-0"),
        (gone(AuditRow, AuditRow.action == "jobs.submit"), "was submitted once, but the audit log says so 0 times"),
        (gone(AuditRow, AuditRow.action == "jobs.delete"), "was deleted once, but the audit log says so 0 times"),
        (gone(IdempotencyKey), "the answer kept for the key key"),
        (changed(IdempotencyKey, body='{"id": "job_2"}'), "the answer kept for the key key is not of job_"),
        (submitted_twice, "exists, but is no submission's"),
    ],
)
def test_each_violation_is_found(field: Any, stream: Stream, harm: Callable[[Any], None], said: str) -> None:
    harm(field)
    assert [wrong for wrong in found(field, stream) if said in wrong], found(field, stream)


@pytest.mark.parametrize("field", ["folder", "memory"], indirect=True)
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (half_stored, "1/model.json.part is an orphan"),
        (file_of_a_deleted_job, "job_unknown/1/model.json is an orphan"),
        (file_of_a_deleted_dataset, "x_train.npy is an orphan"),
        (second_copy_of_a_dataset, "x_train.npy is an orphan"),
        (stray, "x.part is an orphan"),
        (gone(DatasetRow), "x_train.npy is an orphan"),
        (damaged("model.safetensors"), "model.safetensors differs from its stored sha256"),
        (missing("model.safetensors"), "model.safetensors is missing"),
        (damaged("x_train.npy"), "x_train.npy differs from its stored sha256"),
        (missing("x_train.npy"), "x_train.npy is missing"),
    ],
)
def test_each_violation_in_the_store_is_found(
    field: Any, stream: Stream, harm: Callable[[Any], None], said: str
) -> None:
    harm(field)
    assert [wrong for wrong in found(field, stream) if said in wrong], found(field, stream)


def test_a_folder_of_the_store_that_belongs_to_no_job_is_found(field: Any, stream: Stream) -> None:
    (field.state / "artifacts" / "job_unknown").mkdir()
    assert found(field, stream) == ["job_unknown in the artifact store belongs to no job"]


def test_an_accepted_job_that_is_missing_is_found(field: Any, stream: Stream) -> None:
    stream.accepted["job_that_was_promised"] = KIND
    assert audit(field, stream) == ["job_that_was_promised was accepted, but does not exist"]


def test_an_attempt_that_writes_after_the_next_has_begun_is_found(field: Any, stream: Stream) -> None:
    last = update(EventRow).where(EventRow.message == "done").values(attempt=1)
    write(field.database, lambda session: session.execute(last))
    assert "an attempt wrote after the next had begun" in audit(field, stream)[0]


def test_a_job_that_should_have_failed_and_did_not_is_found(field: Any, stream: Stream) -> None:
    (job_id,) = stream.accepted.keys() - stream.deleted
    stream.to_fail[job_id] = "out_of_memory_host"
    assert "should have failed with out_of_memory_host: is succeeded" in audit(field, stream)[0]


def test_a_deleted_job_that_exists_is_found(field: Any, stream: Stream) -> None:
    (job_id,) = stream.accepted.keys() - stream.deleted
    stream.deleted.add(job_id)
    assert f"{job_id} was deleted, but exists" in audit(field, stream)


def test_what_was_never_answered_is_found(field: Any, stream: Stream) -> None:
    stream.pending["key-7"] = KIND
    stream.to_delete.add("job_7")
    assert audit(field, stream) == [
        "the submission with the key key-7 was never answered",
        "the deletion of job_7 was never answered",
    ]


# --- the API's answers ------------------------------------------------------------------------------------------------

GOOD, SLOW = (200, 0.1), (200, 3.0)
NONE = (0, 10.0)


def probes(*found: tuple[int, float]) -> list[Probe]:
    """One every ten seconds."""
    return [Probe(10.0 * number, seconds, status) for number, (status, seconds) in enumerate(found)]


@pytest.mark.parametrize(
    ("answers", "aways", "at"),
    [
        ([GOOD, GOOD], [], []),
        ([GOOD, SLOW, GOOD], [], [10.0]),
        ([GOOD, NONE, GOOD], [], [10.0]),
        ([GOOD, (500, 0.1)], [], [10.0]),
        ([GOOD, NONE, NONE, GOOD], [Away(9.0, 12.0)], []),  # it starts again
        ([GOOD, NONE, GOOD, NONE], [Away(9.0, 12.0)], [30.0]),  # it had started again
        ([GOOD, *[NONE] * 9], [Away(9.0, 12.0)], [80.0, 90.0]),  # it does not come back
        ([GOOD, NONE, NONE], [Away(9.0)], []),
        ([SLOW, GOOD], [Away(2.0, 5.0)], []),  # suspended in the midst of an answer
        ([SLOW, GOOD], [Away(4.0, 5.0)], [0.0]),
    ],
)
def test_an_answer_that_takes_over_a_second_is_found(answers: Any, aways: list[Away], at: list[float]) -> None:
    assert [probe.at for probe in unexcused(probes(*answers), aways)] == at


def test_the_time_in_which_the_prober_was_not_run_is_not_the_apis() -> None:
    assert list(unexcused([Probe(0.0, 1.5, 200, late=0.6), Probe(10.0, 1.5, 200, late=0.4)], [])) == [
        Probe(10.0, 1.5, 200, late=0.4)
    ]


def test_probes_in_a_row_are_one_violation() -> None:
    assert list(violations(probes(GOOD, NONE, SLOW, GOOD, SLOW), [], began=5.0)) == [
        "/healthz at 5.0 s: 2 probes without an answer within 1 s, the longest 10.0 s (no answer)",
        "/healthz at 35.0 s: 1 probes without an answer within 1 s, the longest 3.0 s (status 200)",
    ]


def test_the_summary_has_the_distribution() -> None:
    assert summary(probes(*[GOOD] * 98, SLOW, NONE)) == "99 of 100 answered: p50 100 ms, p99 3000 ms, max 3000 ms"
    assert summary(probes(NONE)) == "no answer"


# --- what is found while faults are applied ---------------------------------------------------------------------------


@pytest.fixture
def watch() -> Any:
    """The parts of a field that its watches use; `wrong` is what they found."""
    wrong: list[str] = []
    return SimpleNamespace(wrong=wrong, find=wrong.append, hindered_at=0.0, database_away_at=0.0)


def part(began: float = 0.0, code: int | None = None) -> Any:
    """A part that began some seconds ago, alive or ended with this exit code."""
    signals: list[int] = []
    return SimpleNamespace(
        began=time.monotonic() - began,
        process=SimpleNamespace(returncode=code),
        said=lambda: "first line\nlast line\n",
        send=signals.append,
        signals=signals,
    )


def test_a_part_that_ends_by_itself_is_found(watch: Any) -> None:
    for code in (0, -9, -15):  # asked to end, or killed
        Field._check_end(watch, "worker 1", part(5.0, code))
    assert watch.wrong == []
    Field._check_end(watch, "worker 1", part(5.0, 1))
    assert watch.wrong == ["worker 1 ended by itself with exit code 1: last line"]


def test_a_part_may_end_at_its_start_while_a_fault_keeps_it_from_starting(watch: Any) -> None:
    watch.hindered_at = time.monotonic() - 1.0
    Field._check_end(watch, "the API", part(5.0, 1))
    assert watch.wrong == []
    Field._check_end(watch, "the API", part(fields.STARTING_SECONDS + 1, 1))
    watch.hindered_at -= 10.0  # before it was started
    Field._check_end(watch, "the API", part(5.0, 3))
    assert [said[:45] for said in watch.wrong] == [
        "the API ended by itself with exit code 1: las",
        "the API ended by itself with exit code 3: las",
    ]


def test_a_live_worker_without_heartbeats_is_found_and_killed(watch: Any) -> None:
    silent, starting = part(1000.0), part(fields.SILENT_SECONDS + 1)
    post = SimpleNamespace(number=2, seen="10:00", seen_at=time.monotonic() - fields.SILENT_SECONDS - 1)
    Field._check_heartbeat(watch, post, silent, "10:00")
    assert watch.wrong == [f"worker 2 lives, but has written no heartbeat for {fields.SILENT_SECONDS:g} s"]
    assert silent.signals == [9]
    Field._check_heartbeat(watch, SimpleNamespace(number=1, seen=None, seen_at=0.0), starting, None)
    Field._check_heartbeat(watch, post, silent, "10:01")
    assert post.seen == "10:01"
    Field._check_heartbeat(watch, post, silent, "10:01")
    assert len(watch.wrong) == 1


def test_no_worker_can_write_heartbeats_while_the_database_is_away(watch: Any) -> None:
    post = SimpleNamespace(number=2, seen="10:00", seen_at=0.0)
    watch.database_away_at = time.monotonic()
    Field._check_heartbeat(watch, post, part(1000.0), "10:00")
    assert watch.wrong == []


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (200, {}, None),
        (409, {}, None),
        (503, {"Retry-After": "1"}, None),
        (507, {}, None),
        (503, {}, "POST /v1/jobs was answered 503 without Retry-After"),
        (500, {}, "POST /v1/jobs was answered 500: what it said"),
        (502, {}, "POST /v1/jobs was answered 502: what it said"),
    ],
)
def test_an_answer_that_no_fault_excuses_is_found(watch: Any, status: int, headers: Any, said: str | None) -> None:
    request = httpx2.Request("POST", "http://127.0.0.1/v1/jobs")
    Field._check_answer(watch, httpx2.Response(status, headers=headers, text="what it said", request=request))
    assert watch.wrong == ([said] if said else [])


def test_violations_that_differ_in_ids_alone_are_printed_a_few_times() -> None:
    many = [f"the key k-{number} of job_0{number} is gone" for number in range(7)]
    assert shortened([*many, "another"]) == [*many[:3], "… and 4 more like it", "another"]
