"""While the artifact store is away, what needs it is a 503 that says when to retry; all else works."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import EndpointConnectionError
from structlog.testing import capture_logs
from support.disk import SmallDisk, why_no_disks
from support.postgres import part_missing
from werkzeug.test import TestResponse

from api.http import errors
from shared import file_removals
from shared.errors import BadRequest

HOST = "secret-host.internal"


class AwayFilesystem:
    """Each method raises what s3fs raises without a network: no OSError."""

    protocol = "s3"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*_: Any, **__: Any) -> Any:
            raise EndpointConnectionError(endpoint_url=f"http://{HOST}/bucket")

        return method


@pytest.fixture
def job(hands) -> dict[str, Any]:
    """A finished job with two files."""
    job = hands.submit()
    lease = hands.start()
    hands.finish(lease, files=[hands.store(lease, name, b"{}") for name in ("model.json", "model.safetensors")])
    return job


@pytest.fixture
def away(services, job) -> None:
    services.store.fs, services.store.is_local = AwayFilesystem(), False


def npz() -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    images = rng.integers(0, 255, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 2
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return file.getvalue()


ROUTES: dict[str, Callable[..., Any]] = {
    "download": lambda client, job: client.get(f"{job['links']['artifacts']}/model.json"),
    "range": lambda client, job: client.get(f"{job['links']['artifacts']}/model.json", headers={"Range": "bytes=0-0"}),
    "zip": lambda client, job: client.get(job["links"]["artifacts_zip"]),
    "predict": lambda client, job: client.post(f"{job['links']['self']}/predict", json={"images": [[[0.0]]]}),
    "upload": lambda client, job: client.post("/v1/datasets", data={"file": (io.BytesIO(npz()), "a.npz")}),
}


@pytest.mark.parametrize("route", ROUTES)
def test_what_needs_the_store_is_a_503_without_the_library_s_words(client, job, away, problem, route) -> None:
    with capture_logs() as logs:
        answer = ROUTES[route](client, job)
    body = problem(answer, 503, "store_unavailable")
    assert answer.headers["Retry-After"] == "10"
    assert HOST not in answer.text
    assert "retry in 10 s" in body["detail"]
    assert any(HOST in str(line.get("error", "")) for line in logs), "the log has the cause"


def test_what_does_not_need_the_store_works(client, job, away) -> None:
    assert client.get(job["links"]["self"]).status_code == 200
    assert client.get(job["links"]["artifacts"]).status_code == 200
    assert client.post("/v1/jobs", json={}).status_code == 202
    assert client.get("/healthz").status_code == 200


def test_a_job_can_be_deleted_and_its_files_are_removed_later(client, job, away, services) -> None:
    answer = client.delete(job["links"]["self"])
    assert (answer.status_code, answer.json["freed_bytes"]) == (200, 0)
    assert client.get(job["links"]["self"]).status_code == 404
    with services.database.read() as session:
        assert file_removals.oldest(session, 9) == [job["id"]]


def test_a_data_set_can_be_deleted_and_its_files_are_removed_later(client, services, job) -> None:
    dataset = client.post("/v1/datasets", data={"file": (io.BytesIO(npz()), "a.npz")}).json
    services.store.fs, services.store.is_local = AwayFilesystem(), False
    answer = client.delete(dataset["links"]["self"])
    assert (answer.status_code, answer.json["freed_bytes"]) == (200, 0)
    with services.database.read() as session:
        (key,) = file_removals.oldest(session, 9)
    assert key.startswith(f"datasets/{dataset['id']}/")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ENXIO])
def test_an_upload_to_a_disk_that_cannot_be_used_is_a_503(client, settings, problem, monkeypatch, number: int) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(settings.uploads_dir))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", broken)
        answer = client.post("/v1/datasets", data={"file": (io.BytesIO(npz()), "a.npz")})
    body = problem(answer, 503, "disk_full")
    assert answer.headers["Retry-After"] == "10"
    assert str(settings.state_dir) not in body["detail"]
    assert client.post("/v1/datasets", data={"file": (io.BytesIO(npz()), "a.npz")}).status_code == 201


def test_a_connection_that_is_gone_is_not_a_disk_that_is_gone() -> None:
    with pytest.raises(BadRequest) as raised:
        try:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        except OSError as error:
            raise BadRequest("the connection ended in the middle of the body") from error
    assert not errors._is_of_the_disk(raised.value)


def test_an_upload_to_a_full_disk_is_a_503_and_the_next_one_succeeds(client, settings, problem) -> None:
    """Also where the decoded images are written through mapped memory, which would end the process by a signal."""
    if (why := why_no_disks()) is not None:
        part_missing(why)
    images = np.zeros((400, 64, 64), np.uint8)
    labels, packed = np.arange(400) % 2, io.BytesIO()
    np.savez_compressed(packed, x=images, y=labels)
    disk = SmallDisk(settings.uploads_dir, 1)
    try:
        for full in (False, True):  # too small for the decoded images; without any room
            if full:
                disk.fill()
            answer = client.post("/v1/datasets", data={"file": (io.BytesIO(packed.getvalue()), "a.npz")})
            body = problem(answer, 503, "disk_full")
            assert answer.headers["Retry-After"] == "10"
            assert str(settings.state_dir) not in body["detail"]
    finally:
        disk.unmount()
    answer = client.post("/v1/datasets", data={"file": (io.BytesIO(packed.getvalue()), "a.npz")})
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    "where", ["api.uploads.staging._make", "api.uploads.multipart._Receiver._begin_file", "api.uploads.ingest.ingest"]
)
def test_without_room_for_an_upload_nothing_of_it_is_kept_and_all_else_works(
    client, settings, problem, monkeypatch, where, number
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    def upload() -> TestResponse:
        form = {"file": (io.BytesIO(npz()), "a.npz")}
        return client.post("/v1/datasets", data=form, headers={"Idempotency-Key": "k"})

    with monkeypatch.context() as full:
        full.setattr(where, fail)
        answer = upload()
        problem(answer, 503, "disk_full")
        assert answer.headers["Retry-After"] == "10"
        assert not settings.uploads_dir.exists()
        assert not [row for row in client.get("/v1/datasets").json["data"] if row["source"] == "upload"]
        assert client.post("/v1/jobs", json={}).status_code == 202
    assert upload().status_code == 201, "the key is free"
