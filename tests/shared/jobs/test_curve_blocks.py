"""Blocks of a curve: what is read through them is what thinning all points of the log gives."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text
from support.long_job import EVERY, store_long_job
from support.store import claim_again, read, running, write

from shared.db.database import Database
from shared.db.tables import CurveBlock
from shared.errors import LeaseLost
from shared.jobs import curve_blocks, curves, joblog, jobs, queue
from shared.jobs.joblog import Line
from shared.jobs.queue import Lease
from shared.jobs.states import JobState

SIZE = 20
LIMITS = (2, 3, 4, 5, 10, 33, 100, 1000)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_blocks, "SIZE", SIZE)
    monkeypatch.setattr(curve_blocks, "READ_POINTS", 3)


def line(series: str, step: int, **values: float) -> Line:
    data = {"series": series, "step": step, "epoch": step // 100, "metrics": values}
    return Line("metric", f"step {step}", data, series=series, step=step)


def whole(database: Database, job_id: str) -> curves.Series:
    """All points of the log."""
    with database.read() as session:
        rows = sorted(joblog.points_of(session, job_id), key=lambda row: row["step"])
        return curves.to_series((row["step"], row["epoch"], row["metrics"]) for row in rows)


def check(database: Database, job_id: str) -> None:
    """What is read with each limit is the thinned log."""
    points = whole(database, job_id)
    for limit in LIMITS:
        expected = {name: curves.thin(some, limit) for name, some in points.items()}
        assert read(database, curve_blocks.thinned, job_id, limit) == expected, limit


def blocks(database: Database, job_id: str) -> dict[tuple[str, int], int]:
    query = select(CurveBlock.series, CurveBlock.level, func.count()).group_by(CurveBlock.series, CurveBlock.level)
    with database.read() as session:
        return {(series, level): n for series, level, n in session.execute(query.where(CurveBlock.job_id == job_id))}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 199, 200, 201, 399, 2000, 2001, 4321])
def test_thinned_points_are_those_of_the_whole_log(database: Database, count: int) -> None:
    lease, rng, step = running(database), random.Random(count), 0
    while step < count:
        size = min(rng.choice([1, 3, 40, 500]), count - step)
        lines = [line("batch", 50 * n, batch_loss=rng.gauss(0, 1)) for n in range(step + 1, step + size + 1)]
        lines += [
            line("epoch", 50 * n, train_loss=float(rng.randrange(3)), val_loss=-n / 7)
            for n in range(step + 1, step + size + 1)
            if n % 7 == 0
        ]
        write(database, queue.append, lease, lines)
        step += size
    check(database, lease.job_id)
    found = blocks(database, lease.job_id)
    assert found.get(("batch", 0), 0) == count // SIZE
    assert found.get(("batch", 1), 0) == count // SIZE // 5
    assert found.get(("batch", 2), 0) == count // SIZE // 25
    assert found.get(("epoch", 0), 0) == count // 7 // SIZE


@pytest.mark.usefixtures("small_blocks")
@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, math.inf]) | st.floats(-9, 9), min_size=1, max_size=900))
@settings(max_examples=25, deadline=None)
def test_random_curves_are_thinned_as_in_memory(sqlite_database: Database, drawn: list[float]) -> None:
    lease = running(sqlite_database)
    lines = [line("batch", step, batch_loss=value) for step, value in enumerate(drawn)]
    write(sqlite_database, queue.append, lease, lines)
    check(sqlite_database, lease.job_id)
    write(sqlite_database, queue.finish, lease, JobState.SUCCEEDED, "done")


@pytest.fixture(scope="module")
def sqlite_database(new_sqlite: Callable[[str], Database], tmp_path_factory: pytest.TempPathFactory) -> Any:
    database = new_sqlite(f"sqlite:///{tmp_path_factory.mktemp('curves') / 'gradq.db'}")
    yield database
    database.close()


@pytest.mark.usefixtures("small_blocks")
def test_a_metric_that_few_points_have_is_complete_beside_one_that_all_have(database: Database) -> None:
    lease = running(database)
    rare = {step: float(step % 37) for step in range(0, 3000, 97)}
    often = {step: float(step % 211) for step in range(0, 3000, 10)}
    lines = [
        line(
            "epoch",
            step,
            train_loss=math.sin(step),
            **({"val_loss": rare[step]} if step in rare else {}),
            **({"val_accuracy": often[step]} if step in often else {}),
        )
        for step in range(3000)
    ]
    write(database, queue.append, lease, lines)
    found = read(database, curve_blocks.thinned, lease.job_id, 40)
    assert found["val_loss"] == [(step, step // 100, value) for step, value in rare.items()]
    for name, values in (("train_loss", [math.sin(step) for step in range(3000)]), ("val_accuracy", often.values())):
        kept = [value for _, _, value in found[name]]
        assert len(kept) == 40
        assert (min(kept), max(kept)) == (min(values), max(values))
    assert read(database, curve_blocks.thinned, lease.job_id, 40, ["val_loss"]) == {"val_loss": found["val_loss"]}


@pytest.mark.usefixtures("small_blocks")
def test_points_that_a_resumed_run_reports_again_are_in_one_block(database: Database) -> None:
    lease = running(database)
    write(database, queue.append, lease, [line("batch", step, batch_loss=1.0 / step) for step in range(1, 251)])
    before = blocks(database, lease.job_id)
    write(database, queue.mark_lost, lease, "lost")
    again = claim_again(database, lease.job_id)
    write(database, queue.append, again, [line("batch", step, batch_loss=9.0) for step in range(150, 251)])
    assert blocks(database, lease.job_id) == before
    write(database, queue.append, again, [line("batch", step, batch_loss=1.0 / step) for step in range(240, 431)])
    assert blocks(database, lease.job_id) == {("batch", 0): 21, ("batch", 1): 4}
    assert max(value for _, _, value in whole(database, lease.job_id)["batch_loss"]) == 1.0
    check(database, lease.job_id)


@pytest.mark.usefixtures("small_blocks")
def test_points_between_those_in_blocks_are_not_lost(database: Database) -> None:
    lease = running(database)
    write(database, queue.append, lease, [line("batch", 10 * n, batch_loss=float(n)) for n in range(1, 500)])
    write(database, queue.append, lease, [line("batch", 2345, batch_loss=-7.0), line("batch", 5000, batch_loss=3.0)])
    assert (2345, 23, -7.0) in whole(database, lease.job_id)["batch_loss"]
    assert blocks(database, lease.job_id) == {("batch", 0): 25, ("batch", 1): 5, ("batch", 2): 1}
    check(database, lease.job_id)


def test_a_nan_hides_neither_minimum_nor_maximum() -> None:
    nan = math.nan
    points = [(step, 1, nan if step % 3 == 0 else float(step % 50)) for step in range(1000)]
    values = [value for _, _, value in curves.next_level(points)]
    assert len(values) == 200
    assert {0.0, 49.0} <= set(values)
    assert (1, 1, 2.0) in curves.extremes([(0, 1, nan), (1, 1, 2.0), (2, 1, nan)])
    assert len(curves.extremes([(step, 1, nan) for step in range(5)])) == 2


def test_the_rows_read_do_not_grow_with_the_curve(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail of the log is shorter than a block, and each level has at most four that the next one lacks."""
    read_blocks: list[str] = []

    def loaded(text: str, names: set[str] | None, original: Any = curve_blocks._loaded) -> Any:
        read_blocks.append(text)
        return original(text, names)

    monkeypatch.setattr(curve_blocks, "_loaded", loaded)
    for points in (20_999, 209_999):
        job_id = store_long_job(database, points)
        read_blocks.clear()
        found = read(database, curve_blocks.thinned, job_id, 1000)["batch_loss"]
        assert (len(found), found[0][0], found[-1][0]) == (1000, EVERY, points * EVERY)
        assert len(read_blocks) <= 60
        tail = read(database, curve_blocks.outline, job_id, "batch").tail["batch_loss"]
        assert tail.count == 499


def test_a_removed_job_has_no_blocks(database: Database) -> None:
    job_id = store_long_job(database, 1000)
    assert blocks(database, job_id) == {("batch", 0): 2}
    write(database, jobs.remove, job_id)
    assert blocks(database, job_id) == {}


def test_an_append_without_the_lease_makes_no_block(database: Database) -> None:
    lease = running(database)
    with pytest.raises(LeaseLost):
        other = Lease(lease.job_id, lease.attempt, "another")
        write(database, queue.append, other, [line("batch", step, batch_loss=1.0) for step in range(500)])
    assert blocks(database, lease.job_id) == {}


def test_a_curve_from_before_blocks_gets_those_that_it_would_have_now(empty_database: Database) -> None:
    empty_database.migrate()
    job_id = store_long_job(empty_database, 10_700)
    lease = running(empty_database)
    lines = [line("epoch", n, train_loss=1.0 / (n + 1), lr=0.1) for n in range(1234)]
    write(empty_database, queue.append, lease, lines)
    query = text("SELECT * FROM curve_blocks ORDER BY job_id, series, level, number")
    with empty_database.read() as session:
        before = session.execute(query).all()
    assert len(before) == 21 + 4 + 2
    empty_database.migrate("0009")
    empty_database.migrate()
    with empty_database.read() as session:
        assert session.execute(query).all() == before
    check(empty_database, job_id)
    check(empty_database, lease.job_id)
