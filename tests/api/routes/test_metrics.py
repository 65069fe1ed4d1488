"""Long curves over HTTP, on both databases: thinned JSON, CSV and pictures show the points of the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from flask import Flask
from flask.testing import FlaskClient
from support.long_job import store_long_job
from support.store import read, write

from api.jobs import whole_curve
from api.services import Services
from api.waiting import transfers
from shared.errors import NotFound, TooManyTransfers
from shared.jobs import curves, joblog, jobs
from shared.jobs.joblog import Line

POINTS = 12_345
CSV = {"Accept": "text/csv"}


@pytest.fixture
def app(app_on_each_database: Flask) -> Flask:
    return app_on_each_database


@pytest.fixture
def job_id(services: Services) -> str:
    """A job with a long curve of batches and a shorter one of epochs."""
    job_id = store_long_job(services.database, POINTS)
    lines = [_epoch(number) for number in range(1, 1001)]
    write(services.database, joblog.insert_lines, job_id, 1, POINTS + 10, lines)
    return job_id


@pytest.fixture
def points(services: Services, job_id: str) -> curves.Series:
    """All points of the log."""
    with services.database.read() as session:
        rows = list(joblog.points_of(session, job_id))
    return curves.to_series((row["step"], row["epoch"], row["metrics"]) for row in rows)


def _epoch(number: int) -> Line:
    step = number * 300
    metrics = {"train_loss": 1.0 / number, "val_accuracy": number / 1000}
    data = {"series": "epoch", "step": step, "epoch": (step // 50 - 1) // 100 + 1, "metrics": metrics}
    return Line("metric", f"step {step}", data, series="epoch", step=step)


def as_json(series: curves.Series) -> dict[str, list[list[Any]]]:
    return {name: [list(point) for point in some] for name, some in series.items()}


@pytest.mark.parametrize("limit", [2, 10, 500, 1000, 5000, 100_000])
def test_each_curve_is_thinned(client: FlaskClient, job_id: str, points: curves.Series, limit: int) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/metrics?max_points={limit}")
    thinned = {name: curves.thin(some, limit) for name, some in points.items()}
    assert answer.json == {"object": "metrics", "series": as_json(thinned)}


def test_a_thousand_points_are_the_default_and_keys_pick_curves(
    client: FlaskClient, job_id: str, points: curves.Series
) -> None:
    series = client.get(f"/v1/jobs/{job_id}/metrics?keys=batch_loss,val_loss").json["series"]
    assert series == {"batch_loss": as_json({"": curves.thin(points["batch_loss"], 1000)})[""], "val_loss": []}
    assert client.get(f"/v1/jobs/{job_id}/metrics?keys=batch_los").status_code == 422


def test_a_csv_has_all_points_and_is_sent_in_pieces(client: FlaskClient, job_id: str, points: curves.Series) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/metrics", headers=CSV)
    assert answer.content_length is None
    pieces = list(answer.iter_encoded())
    assert len(pieces) == POINTS // whole_curve.LINES + 1
    assert b"".join(pieces).decode() == curves.to_csv(points)
    assert answer.headers["Content-Disposition"] == f"attachment; filename={job_id}-metrics.csv"
    one = client.get(f"/v1/jobs/{job_id}/metrics?keys=train_loss", headers=CSV)
    assert one.text == curves.to_csv({"train_loss": points["train_loss"]})
    thinned = client.get(f"/v1/jobs/{job_id}/metrics?keys=train_loss&max_points=20", headers=CSV)
    assert thinned.text == curves.to_csv({"train_loss": curves.thin(points["train_loss"], 20)})
    again = client.get(f"/v1/jobs/{job_id}/metrics", headers={**CSV, "If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_csv_has_what_was_there_when_it_began(
    client: FlaskClient, services: Services, job_id: str, points: curves.Series
) -> None:
    pieces = client.get(f"/v1/jobs/{job_id}/metrics", headers=CSV).iter_encoded()
    text = next(pieces)
    lines = [_epoch(number) for number in range(1001, 2001)]
    write(services.database, joblog.insert_lines, job_id, 1, POINTS + 2000, lines)
    assert (text + b"".join(pieces)).decode() == curves.to_csv(points)


def test_a_csv_of_a_job_that_is_deleted_meanwhile_is_not_ended_as_if_complete(services: Services, job_id: str) -> None:
    whole = read(services.database, whole_curve.WholeCurve.of, job_id)
    pieces: Iterator[str] = whole.csv(services.database)
    next(pieces)
    write(services.database, jobs.remove, job_id)
    with pytest.raises(NotFound):
        list(pieces)


def test_a_long_csv_needs_a_place_for_transfers(client: FlaskClient, job_id: str) -> None:
    with mock.patch.object(transfers, "_has_place", return_value=False):
        answer = client.get(f"/v1/jobs/{job_id}/metrics", headers=CSV)
        assert (answer.status_code, answer.json["code"]) == (503, TooManyTransfers.code)
        assert client.get(f"/v1/jobs/{job_id}/metrics?max_points=100", headers=CSV).status_code == 200


@pytest.mark.parametrize("format", ["png", "svg"])
def test_a_picture_is_the_one_that_is_drawn_of_all_points(
    client: FlaskClient, job_id: str, points: curves.Series, format: str
) -> None:
    (drawn,) = curves.draw(points, "a long job", [format])
    assert client.get(f"/v1/jobs/{job_id}/loss_curve.{format}").data == drawn
