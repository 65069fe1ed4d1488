"""When a worker draws the pictures of finished jobs, and when it has something else to do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.drawings import PICTURES, finished
from support.store import read, running, submit

from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.db.database import Database
from shared.errors import StoreUnavailable
from shared.jobs import jobs
from shared.pictures import files, undrawn
from worker import picture_drawing
from worker.devices import CPU, SlotPool
from worker.picture_drawing import PictureDrawing


class Drawer:
    """A launcher that draws in this process."""

    def __init__(self) -> None:
        self.drawn = 0
        self.error: Exception | None = None

    def draw(self, source: Path, folder: Path) -> Sequence[Path]:
        self.drawn += 1
        if self.error is not None:
            raise self.error
        return files.draw(source, folder)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(picture_drawing.time, "monotonic", lambda: now.now)
    return now


class Work:
    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self.store, self.pool, self.drawer = ArtifactStore(f"file://{folder}/store"), SlotPool([CPU, CPU]), Drawer()
        context: Any = SimpleNamespace(
            database=database,
            store=self.store,
            launcher=self.drawer,
            settings=Settings(state_dir=folder, reconcile_seconds=2.0),
        )
        self.may_work = True
        self.drawing = PictureDrawing(context, self.pool, lambda: self.may_work)

    def finish(self) -> str:
        return finished(self.database, self.store, self.folder).job_id

    def is_drawn(self, job_id: str) -> bool:
        names = [row.name for row in read(self.database, jobs.artifacts_of, job_id)]
        assert names in (["spec.json"], sorted([*PICTURES, "spec.json"]))
        return len(names) > 1


@pytest.fixture
def work(database: Database, tmp_path: Path, clock: SimpleNamespace) -> Work:
    return Work(database, tmp_path)


def test_an_idle_worker_draws_the_pictures_of_all_jobs(work: Work) -> None:
    ids = [work.finish() for _ in range(3)]
    work.drawing.round()
    assert [work.is_drawn(job_id) for job_id in ids] == [True] * 3
    assert work.drawer.drawn == 3


def test_jobs_come_first(work: Work, clock: SimpleNamespace) -> None:
    job_id = work.finish()
    with work.pool.take():
        work.drawing.round()
    assert not work.is_drawn(job_id), "a slot was taken"
    work.drawing.round()
    assert not work.is_drawn(job_id), "a job has just ended, and the next one may be on its way"
    clock.now += picture_drawing.REST_SECONDS
    waiting = submit(work.database)
    work.drawing.round()
    assert not work.is_drawn(job_id), "a job is waiting"
    with work.database.write() as session:
        jobs.request_cancel(session, waiting)
    clock.now += 2.0
    work.may_work = False
    work.drawing.round()
    assert not work.is_drawn(job_id), "the worker drains, or cannot store"
    work.may_work = True
    work.drawing.round()
    assert work.is_drawn(job_id)


def test_a_job_that_this_worker_cannot_run_is_not_waited_for(work: Work) -> None:
    job_id = work.finish()
    submit(work.database, device="cuda")
    work.drawing.round()
    assert work.is_drawn(job_id)


def test_the_database_is_asked_once_per_round_and_after_a_job(work: Work, clock: SimpleNamespace) -> None:
    work.drawing.round()
    job_id = work.finish()
    clock.now += 1.9
    work.drawing.round()
    assert not work.is_drawn(job_id), "ended on another worker: found in the next round"
    with work.pool.take():
        pass
    clock.now += picture_drawing.REST_SECONDS
    work.drawing.round()
    assert work.is_drawn(job_id)


def test_pictures_that_cannot_be_drawn_are_not_tried_again_and_others_are(work: Work, clock: SimpleNamespace) -> None:
    broken = work.finish()
    work.drawer.error = ValueError("no drawing")
    work.drawing.round()
    work.drawer.error = None
    fine = work.finish()
    clock.now += 2.0
    work.drawing.round()
    assert (work.is_drawn(broken), work.is_drawn(fine), work.drawer.drawn) == (False, True, 2)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), BlockingIOError("no process"), RuntimeError("can't start new thread")], ids=repr
)
def test_what_may_pass_is_tried_again(work: Work, clock: SimpleNamespace, error: Exception) -> None:
    job_id = work.finish()
    work.drawer.error = error
    with pytest.raises(type(error)) as raised:
        work.drawing.round()
    assert work.drawing.failed(raised.value) == 2.0
    work.drawer.error = None
    clock.now += 2.0
    work.drawing.round()
    assert work.is_drawn(job_id)


def test_a_worker_that_stops_draws_no_further_pictures(work: Work) -> None:
    ids = [work.finish() for _ in range(2)]
    draw = work.drawer.draw
    done = threading.Event()

    def draw_and_stop(source: Path, folder: Path) -> Sequence[Path]:
        work.drawing.stop()
        done.set()
        return draw(source, folder)

    work.drawer.draw = draw_and_stop  # type: ignore[method-assign]
    work.drawing.start()
    assert done.wait(20)
    work.drawing.join(20)
    assert not work.drawing.is_alive()
    assert sorted(work.is_drawn(job_id) for job_id in ids) == [False, True]


def test_a_running_job_has_no_pictures_to_draw(work: Work) -> None:
    running(work.database)
    assert read(work.database, undrawn.one_of_the_newest) is None
