"""Pictures of a finished job are drawn when they are first asked for, by whichever call."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.drawings import PICTURES, finished
from support.store import read

from api.services import Services
from shared.errors import StoreUnavailable
from shared.events import UNDRAWN
from shared.pictures import undrawn

ALL = sorted([*PICTURES, "spec.json"])


@pytest.fixture
def job_id(services: Services, tmp_path: Path) -> str:
    (folder := tmp_path / "files").mkdir()
    return finished(services.database, services.store, folder).job_id


def listed(client: FlaskClient, job_id: str) -> list[str]:
    answer = client.get(f"/v1/jobs/{job_id}/artifacts")
    assert answer.status_code == 200
    return [file["name"] for file in answer.json["data"]]


def test_the_list_has_all_files_and_each_has_the_bytes_that_it_says(client: FlaskClient, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/artifacts").json["data"]
    assert [file["name"] for file in answer] == ALL
    for file in answer:
        served = client.get(file["links"]["self"])
        assert (served.status_code, len(served.data)) == (200, file["size_bytes"])
        assert served.headers["ETag"] == f'"{file["sha256"]}"'


def test_a_picture_can_be_asked_for_before_the_list(client: FlaskClient, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/artifacts/loss_curve.png")
    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    assert answer.data.startswith(b"\x89PNG")
    assert client.get(f"/v1/jobs/{job_id}/artifacts/loss_curve.png").data == answer.data


def test_the_zip_has_them(client: FlaskClient, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/artifacts.zip")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as found:
        assert sorted(Path(name).name for name in found.namelist()) == ALL


def test_other_files_are_served_without_drawing(client: FlaskClient, services: Services, job_id: str) -> None:
    assert client.get(f"/v1/jobs/{job_id}/artifacts/spec.json").status_code == 200
    assert read(services.database, undrawn.of_job, job_id) is not None


@pytest.mark.parametrize("name", [UNDRAWN, "no_such_file"])
def test_no_call_has_the_file_from_which_they_are_drawn(
    client: FlaskClient, problem: Callable[..., Any], job_id: str, name: str
) -> None:
    for _ in range(2):  # before and after
        problem(client.get(f"/v1/jobs/{job_id}/artifacts/{name}"), 404, "not_found")
        assert listed(client, job_id) == ALL


def test_the_page_shows_them(client: FlaskClient, job_id: str) -> None:
    page = client.get(f"/jobs/{job_id}").text
    for name in ("predictions.png", "mistakes.png"):
        assert f"{job_id}/artifacts/{name}" in page


def test_a_store_that_is_away_is_a_503_of_the_list_and_a_page_without_pictures(
    client: FlaskClient, services: Services, problem: Callable[..., Any], job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> bool:
        raise StoreUnavailable("away")

    monkeypatch.setattr(services.store, "get_checked", away)
    problem(client.get(f"/v1/jobs/{job_id}/artifacts"), 503, "store_unavailable")
    page = client.get(f"/jobs/{job_id}")
    assert (page.status_code, "predictions.png" in page.text) == (200, False)
    monkeypatch.undo()
    assert listed(client, job_id) == ALL


def test_a_drawing_that_is_lost_leaves_the_other_files(client: FlaskClient, services: Services, job_id: str) -> None:
    row = read(services.database, undrawn.of_job, job_id)
    assert row is not None
    services.store.remove(row.key)
    assert listed(client, job_id) == ["spec.json"]
