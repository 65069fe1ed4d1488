"""The watches of faults and side calls find what they look for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from faults import surroundings
from faults.deck import every, fitting
from faults.processes import WorkerWithFullOutput
from faults.side_calls import KEEP, SideCalls
from faults.stream import Stream
from faults.surroundings import SkewSchema
from sqlalchemy import text
from support.store import running

from shared.db.database import Database

Answer = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
def field(tmp_path: Path, new_sqlite: Callable[[str], Database]) -> Any:
    """The parts of a field that these faults and calls use; `answer` is the API."""
    database = new_sqlite(f"sqlite:///{tmp_path / 'gradq.db'}")
    wrong: list[str] = []
    field = SimpleNamespace(
        wrong=wrong,
        find=wrong.append,
        posts=[SimpleNamespace(number=1, part=None, output="log")],
        address=lambda: database.url,
        database=database,
        answer=lambda request: httpx2.Response(200, json={"ready": True}),
    )
    transport = httpx2.MockTransport(lambda request: field.answer(request))
    field.client = lambda seconds=1.0: httpx2.Client(base_url="http://api", transport=transport)
    field.http = field.client()
    yield field
    database.close()


def skewed(field: Any) -> SkewSchema:
    """The fault after its strike, when API and workers should have noticed."""
    fault = SkewSchema(field, Stream(field, seed=1), Random(1))
    fault.strike()
    fault.look()  # too early to expect anything
    fault.noticed_at = 0.0
    return fault


def test_claims_and_readiness_with_a_foreign_schema_are_found(field: Any) -> None:
    running(field.database)
    fault = skewed(field)
    fault.look()
    claimed = running(field.database)
    fault.look()
    assert fault.done()
    fault.mend()
    foreign = "the database is at a revision that this version does not know"
    assert field.wrong == [
        f"{foreign}, but workers claimed {[(claimed.job_id, 1)]}",
        f"{foreign}, but the API said 2 times that it is ready",
    ]


def test_a_service_that_waits_for_its_schema_is_correct(field: Any) -> None:
    running(field.database)
    field.answer = lambda request: httpx2.Response(503, json={"ready": False})
    fault = skewed(field)
    fault.look()
    with field.database.read() as session:
        assert (
            session.execute(text("SELECT version_num FROM alembic_version")).scalar() == surroundings.FOREIGN_REVISION
        )
    assert fault.done()
    fault.mend()
    with field.database.read() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar() == fault.old
    assert field.wrong == []


def test_a_worker_that_does_not_serve_with_such_an_output_is_found(field: Any) -> None:
    field.live_workers = lambda: []
    fault = WorkerWithFullOutput(field, Stream(field, seed=1), Random(1))
    fault.strike()
    fault.look()
    assert (fault.done(), field.posts[0].output) == (False, "full")
    fault.latest = 0.0
    assert fault.done()
    fault.mend()
    assert field.posts[0].output == "log"
    assert field.wrong == ["a worker's output goes to a full device: it does not serve within 60 s"]


def ended(field: Any, jobs: int) -> Stream:
    stream = Stream(field, seed=1)
    stream.accepted = {f"job_{number}": "a kind" for number in range(jobs)}
    return stream


def test_models_with_equal_weights_that_predict_otherwise_are_found(field: Any) -> None:
    answers = iter([{"predictions": [0.1]}, {"predictions": [0.1]}, {"predictions": [0.2]}])
    field.answer = lambda request: httpx2.Response(200, json=next(answers))
    calls = SideCalls(field, ended(field, 1))
    for _ in range(3):
        calls.call(calls.predict)
    assert field.wrong == ["the model of job_0 (a kind) predicts otherwise than an equal one"]


def test_a_job_is_audited_before_it_is_deleted(field: Any) -> None:
    field.store = lambda: None
    stream = ended(field, KEEP + 1)
    calls = SideCalls(field, stream)
    calls.call(calls.delete_job)
    assert field.wrong == ["job_0 (a kind): does not exist"]
    assert stream.deleted == {"job_0"}
    calls.call(calls.delete_job)  # the others are kept
    assert stream.deleted == {"job_0"}


def test_a_deletion_without_an_answer_is_repeated(field: Any) -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    field.store, field.answer = lambda: None, away
    stream = ended(field, KEEP + 1)
    calls = SideCalls(field, stream)
    calls.call(calls.delete_job)
    assert (stream.to_delete, stream.deleted, calls.settle()) == ({"job_0"}, set(), False)
    field.answer = lambda request: httpx2.Response(404)  # it had happened
    assert calls.settle()
    assert stream.deleted == {"job_0"}


def test_deletions_that_are_refused_are_found(field: Any) -> None:
    refused = {"id": "job_0", "ok": False, "error": {"code": "wrong_state"}}
    gone = {"id": "job_1", "ok": False, "error": {"code": "not_found"}}
    field.store = lambda: None
    field.answer = lambda request: httpx2.Response(200, json={"data": [refused, gone]})
    stream = ended(field, 2)
    stream.to_delete = {"job_0", "job_1"}
    calls = SideCalls(field, stream)
    calls.call(calls.delete_jobs)
    assert field.wrong == [f"jobs that have ended were not deleted: {[refused]}"]
    assert (stream.to_delete, stream.deleted) == ({"job_0"}, {"job_1"})


def test_every_kind_of_fault_has_a_name_and_a_place_to_strike() -> None:
    assert all(fault.__doc__ and fault.target for fault in every())
    everywhere = dict.fromkeys(("state", "artifacts", "runs", "uploads", "cache", "logs", "host 1"))
    field: Any = SimpleNamespace(s3=object(), postgres=object(), clock=object(), disks=everywhere)
    folder: Any = SimpleNamespace(**{**vars(field), "s3": None})
    assert {*fitting(field), *fitting(folder)} == set(every())
    assert fitting(field, ["KillApi"])[0].__name__ == "KillApi"
