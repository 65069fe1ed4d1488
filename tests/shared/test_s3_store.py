"""The artifact store on a real S3 server that is away, silent, full or slow: each call ends, with one kind of error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.s3 import S3
from support.waiting import wait_for

from shared.artifacts import CHUNK, PROBE, ArtifactStore, sha256_of
from shared.errors import StoreUnavailable

JOB = f"job_{1:032x}"
KEY = f"{JOB}/1/model.json"
ANSWER_SECONDS = 0.6


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    yield server
    server.faults()
    server.cable.mend(reset=True)


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch, source: Path) -> ArtifactStore:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    patient = ArtifactStore(s3.url, 60.0)  # the machine may be busy
    for folder in (*patient.folders(), PROBE):  # of the tests before
        patient.remove_folder(folder)
    patient.put(KEY, source)
    return ArtifactStore(s3.url, ANSWER_SECONDS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.json"
    path.write_bytes(bytes(range(256)) * 10)
    return path


CALLS: dict[str, Callable[[ArtifactStore, Path], Any]] = {
    "put": lambda store, path: store.put(f"{JOB}/1/other", path),
    "get": lambda store, path: store.get(KEY, path.with_name("back")),
    "open": lambda store, path: store.open(KEY).read(),
    "has": lambda store, path: store.has(KEY),
    "keys_of": lambda store, path: store.keys_of(JOB),
    "folders": lambda store, path: store.folders(),
    "remove": lambda store, path: store.remove(KEY),
    "remove_folder": lambda store, path: store.remove_folder(JOB),
    "probe": lambda store, path: store.probe(),
    "is_empty": lambda store, path: store.is_empty(),
}


@pytest.mark.parametrize(
    "call", [name if name in ("put", "open") else pytest.param(name, marks=pytest.mark.long) for name in CALLS]
)
@pytest.mark.parametrize("how", ["refuse", "cut"])
def test_a_server_that_is_away_or_silent_is_one_error_after_a_bounded_time(
    s3: S3, store: ArtifactStore, source: Path, how: str, call: str
) -> None:
    """Silent: connections are accepted, and nothing is answered, nor the headers of a body that is about to be sent."""
    getattr(s3.cable, how)()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        CALLS[call](store, source)
    assert time.monotonic() - began < 20, "it waits for a server that does not answer"
    s3.cable.mend(reset=True)
    CALLS[call](store, source)  # the next one succeeds


LARGE = 16 << 20  # bytes; more than the kernel's buffers take


@pytest.mark.parametrize("how", ["frozen", "cut"])
def test_a_server_that_stops_reading_a_body_is_away_after_a_bounded_time(
    s3: S3, monkeypatch: pytest.MonkeyPatch, source: Path, how: str
) -> None:
    """Frozen: the kernel acknowledges for a process that reads nothing. Without a limit the put waits for its end."""
    assert s3.process is not None
    process = psutil.Process(s3.process.pid)
    for name, value in s3.environment_through(s3.port if how == "frozen" else s3.cable.port).items():
        monkeypatch.setenv(name, value)
    store = ArtifactStore(s3.url, 1.0)
    wait_for(lambda: _stored(store, source), 60, "the bucket")
    source.write_bytes(bytes(LARGE))
    stop, go_on = (process.suspend, process.resume) if how == "frozen" else (s3.cable.cut, s3.cable.mend)
    late = threading.Timer(40, go_on)
    stop()
    late.start()
    try:
        with pytest.raises(StoreUnavailable):
            store.put(f"{JOB}/1/large", source)
        assert late.is_alive(), "it waits until the server reads again"
    finally:
        late.cancel()
        go_on()


def _stored(store: ArtifactStore, path: Path) -> bool:
    with suppress(StoreUnavailable):  # on a busy machine
        return bool(store.put(KEY, path))
    return False


def test_a_full_server_takes_no_file_and_gives_those_that_it_has(s3: S3, store: ArtifactStore, source: Path) -> None:
    s3.faults(full=True)
    for call in (lambda: store.put(f"{JOB}/1/b", source), store.probe):
        with pytest.raises(StoreUnavailable, match="XMinioStorageFull"):
            call()
    assert store.keys_of(JOB) == [KEY]
    store.get(KEY, source.with_name("back"))
    assert sha256_of(source.with_name("back")) == sha256_of(source)


def test_a_missing_file_is_no_outage(store: ArtifactStore, source: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.get(f"{JOB}/1/nothing", source.with_name("back"))
    with pytest.raises(FileNotFoundError):
        store.open(f"{JOB}/1/nothing")


def test_a_bucket_that_is_gone_is_an_outage_and_no_missing_file(s3: S3, store: ArtifactStore, source: Path) -> None:
    gone = ArtifactStore("s3://no-such-bucket/store", ANSWER_SECONDS)
    for call in ("get", "open", "has"):
        with pytest.raises(StoreUnavailable):
            CALLS[call](gone, source)


def test_a_large_file_is_read_in_pieces_and_at_any_place(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(251)) * (3 * CHUNK // 251))
    store.put(f"{JOB}/1/large", path)
    with store.open(f"{JOB}/1/large") as file:
        file.seek(2 * CHUNK + 5)
        assert file.read(7) == path.read_bytes()[2 * CHUNK + 5 : 2 * CHUNK + 12]
        assert file.tell() == 2 * CHUNK + 12
        file.seek(0)
        assert b"".join(iter(lambda: file.read(100_000), b"")) == path.read_bytes()


@pytest.mark.usefixtures("store")
def test_no_more_is_read_ahead_than_a_piece(s3: S3, tmp_path: Path) -> None:
    """Each open file holds what it has read ahead: 50 MiB, if s3fs decides."""
    store = ArtifactStore(s3.url, 60.0)
    path = tmp_path / "large"
    path.write_bytes(bytes(16 * CHUNK))
    store.put(f"{JOB}/1/large", path)
    before = s3.cable.forwarded
    with store.open(f"{JOB}/1/large") as file:
        file.read(1)
        assert CHUNK <= s3.cable.forwarded - before < 3 * CHUNK


def test_files_that_another_process_has_written_are_listed(s3: S3, store: ArtifactStore, source: Path) -> None:
    """fsspec keeps listings for ever unless it is told otherwise."""
    assert store.keys_of(JOB) == [KEY]
    ArtifactStore(s3.url, 5.0).put(f"{JOB}/2/new", source)
    assert sorted(store.keys_of(JOB)) == [KEY, f"{JOB}/2/new"]
    assert store.has(f"{JOB}/2/new")
    store.remove_folder(f"{JOB}/2")


def test_a_probe_leaves_nothing(store: ArtifactStore) -> None:
    store.probe()
    assert store.folders() == [JOB]
    assert store.keys_of(PROBE) == []


def test_an_error_does_not_name_the_keys_of_the_address(tmp_path: Path, source: Path) -> None:
    """s3fs takes what is before the @ for a part of the bucket's name, and quotes it."""
    store = ArtifactStore("s3://key:hush-hush@bucket/store", ANSWER_SECONDS)
    with pytest.raises(StoreUnavailable) as caught:
        store.put(KEY, source)
    assert "hush-hush" not in str(caught.value)
