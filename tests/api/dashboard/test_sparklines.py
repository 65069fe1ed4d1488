"""Sparklines for a page of jobs, on both databases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event, insert
from sqlalchemy.orm import Session

from api.dashboard.sparklines import POINTS, Sparkline, sparklines_of
from shared.db.database import Database
from shared.db.tables import EventRow, Job
from shared.jobs import joblog, jobs
from shared.spec.job_spec import JobSpec

PER_EPOCH = 23


def trained(session: Session, epochs: int, of: int | None = None, per_epoch: int = PER_EPOCH) -> Job:
    """A job with `epochs` complete epochs: the loss of an epoch is 1/epoch, that of a batch 1/step."""
    job = jobs.create(session, JobSpec.parse({"epochs": of or epochs}))
    done, total = epochs * per_epoch, (of or epochs) * per_epoch
    job.progress = {"epoch": epochs, "epochs": of or epochs, "step": done, "total_steps": total}
    points = [
        (e * per_epoch, "epoch", {"train_loss": 1 / e, "val_loss": 9.0, "val_accuracy": e / 1e6})
        for e in range(1, epochs + 1)
    ]
    points += [(step, "batch", {"batch_loss": 1 / step}) for step in range(50, done + 1, 50)]
    rows: list[dict[str, Any]] = [
        {
            **{"job_id": job.id, "seq": seq, "attempt": 1, "type": "metric", "level": "info", "message": ""},
            **{"series": series, "step": step, "created_at": joblog.now()},
            "data": {"step": step, "epoch": 1, "series": series, "metrics": metrics},
        }
        for seq, (step, series, metrics) in enumerate(sorted(points, key=lambda point: point[0]), 2)
    ]
    session.execute(insert(EventRow), rows)
    return job


def test_of_a_short_curve_every_point_is_fetched(database: Database) -> None:
    with database.write() as session:
        job = trained(session, epochs=12)
        assert sparklines_of(session, [job]) == {
            job.id: Sparkline(losses=[1 / e for e in range(1, 13)], loss=1 / 12, accuracy=12 / 1e6)
        }


def test_of_a_long_curve_a_few_points_are_fetched_the_first_and_the_last_among_them(database: Database) -> None:
    with database.write() as session:
        job = trained(session, epochs=1000)
        (sparkline,) = sparklines_of(session, [job]).values()
    assert (sparkline.losses[0], sparkline.losses[-1], sparkline.accuracy) == (1.0, 1 / 1000, 1000 / 1e6)
    assert POINTS - 2 <= len(sparkline.losses) <= POINTS + 2
    assert sparkline.losses == sorted(sparkline.losses, reverse=True)


def test_few_epochs_of_many_steps_are_shown_by_batch_losses(database: Database) -> None:
    with database.write() as session:
        job = trained(session, epochs=2, of=5, per_epoch=900)
        (sparkline,) = sparklines_of(session, [job]).values()
    assert (sparkline.losses[0], sparkline.losses[-1], sparkline.accuracy) == (1 / 50, 1 / 1800, 2 / 1e6)
    assert sparkline.loss == 1 / 2  # of the last epoch, not of a batch
    assert len(sparkline.losses) > 15


def test_while_an_epoch_is_validated_the_accuracy_is_that_of_the_one_before(database: Database) -> None:
    with database.write() as session:
        job = trained(session, epochs=12, of=20)
        job.progress = {**(job.progress or {}), "step": 13 * PER_EPOCH}
        assert sparklines_of(session, [job])[job.id].accuracy == 12 / 1e6


def test_a_page_of_jobs_costs_one_query_and_those_without_points_nothing(database: Database) -> None:
    with database.write() as session:
        page = [trained(session, epochs=number) for number in (13, 14, 15)]
        page.append(jobs.create(session, JobSpec.parse({})))
        asked = []
        event.listen(session.get_bind(), "before_cursor_execute", lambda *call: asked.append(call[2]))
        session.flush()
        asked.clear()
        found = sparklines_of(session, page)
    assert {job_id: len(sparkline.losses) for job_id, sparkline in found.items()} == {
        job.id: count for job, count in zip(page, (13, 14, 15), strict=False)
    }
    assert len(asked) == 1, asked


def test_a_loss_that_is_not_a_number_is_left_out(database: Database) -> None:
    with database.write() as session:
        job = trained(session, epochs=12)
        row = next(row for row in joblog.events_of(session, job.id) if row.series == "epoch")
        row.data = {**row.data, "metrics": {"train_loss": None}}
        session.flush()
        assert len(sparklines_of(session, [job])[job.id].losses) == 11
