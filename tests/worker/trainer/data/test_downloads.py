"""Downloads of built-in datasets, from mirrors on the loopback interface that respond, do not, or break off."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.disk import SmallDisk, why_no_disks
from support.images import idx, pixels
from support.postgres import free_port, part_missing

from shared.datasets.catalog import DATASETS, IDX_FILES
from shared.disks import disk_is_unusable
from shared.errors import DataError
from shared.spec.job_spec import JobSpec
from worker.attempt_outcome import RELEASED, Failed, Lost, StopReason, decide
from worker.plan import Plan
from worker.trainer import process
from worker.trainer.data import built_in, downloads
from worker.trainer.nets import import_torchvision
from worker.trainer.run import StopRequested

KMNIST, CIFAR = DATASETS["kmnist"], DATASETS["cifar10"]
FILES = {
    f"{name}.gz": gzip.compress(idx(pixels(20, 28, 28) if "images" in name else (np.arange(20) % 10).astype(np.uint8)))
    for name in IDX_FILES
}
LAST = f"{IDX_FILES[-1]}.gz"


def no_stop() -> None:
    pass


def archive(folder: str = "cifar-10-batches-py", names: tuple[str, ...] = CIFAR.files) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in (*names, "../evil"):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content := name.encode() * 100)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


class Mirror:
    """Serves `files`. `faults` has what a file's next requests get instead of it: a status, or bytes in its place, or
    "cut" (half of it), "silent" (no response) or "slow" (a byte, and nothing more)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = dict(FILES)
        self.faults: dict[str, list[int | bytes | str]] = {}
        self.asked: list[str] = []
        self.over = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.respond(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.mirrors = [self.url]  # of KMNIST, in the order in which they are asked
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.rpartition("/")[2]
        self.asked.append(name)
        content = self.files[name]
        fault = self.faults[name].pop(0) if self.faults.get(name) else None
        if fault == "silent":
            self.over.wait()
            return
        request.send_response(fault if isinstance(fault, int) else 200)
        sent = fault if isinstance(fault, bytes) else content
        request.send_header("Content-Length", str(len(sent)))
        request.end_headers()
        if fault == "cut":
            sent = sent[: len(sent) // 2]
        elif fault == "slow":
            sent = sent[:1]
        request.wfile.write(sent)
        request.wfile.flush()
        if fault == "slow":
            self.over.wait()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """What torchvision knows, with this mirror instead of its own."""
    mirror = Mirror()
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in mirror.files.items()}
    mirror.files["cifar.tar.gz"] = archive()
    cifar = hashlib.md5(mirror.files["cifar.tar.gz"]).hexdigest()
    fake = SimpleNamespace(
        KMNIST=SimpleNamespace(mirrors=mirror.mirrors, resources=list(md5.items())),
        CIFAR10=SimpleNamespace(url=f"{mirror.url}cifar.tar.gz", filename="cifar.tar.gz", tgz_md5=cifar),
    )
    monkeypatch.setattr(import_torchvision, "import_torchvision", lambda: SimpleNamespace(datasets=fake))
    yield mirror
    mirror.close()


def remains(data_dir: Path) -> list[str]:
    """All files, without the locks."""
    return sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.suffix != ".lock")


def test_missing_files_are_fetched_once(tmp_path: Path, mirror: Mirror) -> None:
    for _ in range(2):
        assert len(built_in.load(KMNIST, tmp_path / "data", True).train_labels) == 20
    assert mirror.asked == list(FILES)
    assert remains(tmp_path / "data") == ["KMNIST", "KMNIST/raw", *sorted(f"KMNIST/raw/{name}" for name in IDX_FILES)]


def test_files_that_are_there_are_left_alone(tmp_path: Path, mirror: Mirror) -> None:
    (folder := tmp_path / "KMNIST" / "raw").mkdir(parents=True)
    (folder / IDX_FILES[0]).write_bytes(b"the operator's")
    (folder / f"{IDX_FILES[1]}.gz").write_bytes(b"the operator's")
    downloads.fetch_missing(KMNIST, tmp_path, no_stop)
    assert mirror.asked == [f"{name}.gz" for name in IDX_FILES[2:]]
    assert (folder / IDX_FILES[0]).read_bytes() == b"the operator's"


def test_of_an_archive_only_the_dataset_s_files_are_unpacked(tmp_path: Path, mirror: Mirror) -> None:
    downloads.fetch_missing(CIFAR, tmp_path / "data", no_stop)
    place = "cifar-10-batches-py"
    assert remains(tmp_path / "data") == [place, *sorted(f"{place}/{name}" for name in CIFAR.files)]
    assert (tmp_path / "data" / place / "test_batch").read_bytes() == b"test_batch" * 100
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "content",
    [archive("other"), archive(names=CIFAR.files[:-1]), b"no archive", archive()[:-200]],
    ids=["other folder", "file missing", "no archive", "cut"],
)
def test_an_archive_without_the_files_is_a_data_error(tmp_path: Path, mirror: Mirror, monkeypatch, content) -> None:
    mirror.files["cifar.tar.gz"] = content
    source = ("cifar.tar.gz", (f"{mirror.url}cifar.tar.gz",), hashlib.md5(content).hexdigest())
    monkeypatch.setattr(import_torchvision, "sources", lambda _: [source])
    with pytest.raises(DataError, match=r"test_batch of cifar10 is in none|data_batch_1 of cifar10|cannot be unpacked"):
        downloads.fetch_missing(CIFAR, tmp_path, no_stop)
    assert remains(tmp_path) == []


# --- mirrors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [500, 502, 503, 408, 429, "cut", "silent", "slow"])
def test_a_mirror_that_is_away_ends_the_attempt_and_not_the_job(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, fault: int | str
) -> None:
    monkeypatch.setattr(downloads, "SILENT_SECONDS", 0.2)
    mirror.faults[LAST] = [fault]
    with pytest.raises(downloads.MirrorAway, match=r"put the files into .*raw$") as away:
        built_in.load(KMNIST, tmp_path, True)
    assert away.value.code == "store_unavailable"
    assert f"{mirror.url}{LAST}" in away.value.detail
    assert remains(tmp_path) == [], "no file is there before all are"
    assert len(built_in.load(KMNIST, tmp_path, True).train_labels) == 20


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_mirror_that_takes_no_connection_is_away(tmp_path: Path, mirror: Mirror, host: str) -> None:
    mirror.mirrors[:] = [f"http://{host}:{free_port()}/"]
    with pytest.raises(downloads.MirrorAway):
        downloads.fetch_missing(KMNIST, tmp_path, no_stop)


@pytest.mark.parametrize(
    "fault", [404, 403, 410, b"<html>moved</html>", FILES[LAST][:-1]], ids=["404", "403", "410", "page", "cut"]
)
def test_a_mirror_that_has_another_file_or_none_is_a_data_error(tmp_path: Path, mirror: Mirror, fault) -> None:
    mirror.faults[LAST] = [fault] * downloads.TRIES
    with pytest.raises(DataError, match=r"put the files into .*raw$") as error:
        built_in.load(KMNIST, tmp_path, True)
    assert error.value.code == "data_error"
    assert len(error.value.data["missing"]) == len(IDX_FILES)
    assert ("md5" if isinstance(fault, bytes) else f"HTTP {fault}") in error.value.detail
    assert remains(tmp_path) == []


def test_a_file_that_was_damaged_on_its_way_is_fetched_once_more(tmp_path: Path, mirror: Mirror) -> None:
    mirror.faults[LAST] = [b"damaged"]
    downloads.fetch_missing(KMNIST, tmp_path, no_stop)
    assert mirror.asked.count(LAST) == 2


def test_another_mirror_is_asked_before_that(tmp_path: Path, mirror: Mirror) -> None:
    mirror.mirrors.insert(0, f"http://127.0.0.1:{free_port()}/")
    downloads.fetch_missing(KMNIST, tmp_path, no_stop)


@pytest.mark.parametrize("fault", ["silent", "slow"])
def test_a_job_that_is_asked_to_stop_waits_for_no_mirror(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(downloads, "SILENT_SECONDS", 3600.0)
    mirror.faults[next(iter(FILES))] = [fault]

    def stop() -> None:
        if mirror.asked:
            raise StopRequested(0)

    with pytest.raises(StopRequested):
        downloads.fetch_missing(KMNIST, tmp_path, stop)
    assert (len(mirror.asked), remains(tmp_path)) == (1, [])


# --- one at a time ----------------------------------------------------------------------------------------------------


def hold(data_dir: Path, name: str) -> int:
    """Lock the download of a dataset as another job does."""
    lock = os.open(data_dir / f".download-{name}.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_a_job_that_waits_for_another_s_download_can_be_stopped(tmp_path: Path, mirror: Mirror) -> None:
    lock, asked = hold(tmp_path, "kmnist"), iter([False, False, True])

    def stop() -> None:
        if next(asked):
            raise StopRequested(0)

    try:
        with pytest.raises(StopRequested):
            downloads.fetch_missing(KMNIST, tmp_path, stop)
    finally:
        os.close(lock)
    assert mirror.asked == []


def test_a_job_that_waited_downloads_nothing_again(tmp_path: Path, mirror: Mirror) -> None:
    downloads.fetch_missing(KMNIST, tmp_path, no_stop)
    mirror.asked.clear()
    downloads.fetch_missing(KMNIST, tmp_path, no_stop)
    assert mirror.asked == []


def test_the_download_of_another_dataset_is_not_waited_for(tmp_path: Path, mirror: Mirror) -> None:
    lock = hold(tmp_path, "cifar10")
    (tmp_path / ".download-cifar10").mkdir()
    try:
        downloads.fetch_missing(KMNIST, tmp_path, no_stop)
    finally:
        os.close(lock)
    assert (tmp_path / ".download-cifar10").is_dir(), "its files are in use"


@pytest.mark.parametrize("name", ["kmnist", "cifar10"])
def test_what_a_killed_job_left_is_removed(tmp_path: Path, mirror: Mirror, name: str) -> None:
    (tmp_path / f".download-{name}").mkdir()
    (tmp_path / f".download-{name}" / "half").write_bytes(b"half")
    downloads.fetch_missing(KMNIST, tmp_path, no_stop)
    assert not list(tmp_path.glob(".download-*/"))


# --- how such a job ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["stop", "mirror", "disk", "read-only disk", "checksum"])
def test_only_what_another_attempt_cannot_mend_ends_the_job(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    stop, data = threading.Event(), tmp_path / "data"
    if fault == "stop":
        mirror.faults[LAST], _ = ["silent"], stop.set()
    elif fault == "mirror":
        mirror.faults[LAST] = [503]
    elif fault == "checksum":
        mirror.faults[LAST] = [b"", b""]
    else:
        break_disk(monkeypatch, errno.EROFS if fault == "read-only disk" else errno.ENOSPC)
    spec = JobSpec.parse({"dataset": "kmnist"})
    plan = Plan(
        kind="training",
        spec=spec.to_json(),
        folder=str(tmp_path / "run"),
        data_dir=str(data),
        download=True,
        device="cpu",
        gpu_uuid=None,
        threads=1,
    )
    ended = process.outcome_of(spec, plan, stop, SimpleNamespace(send=lambda _: None))  # type: ignore[arg-type]
    reason = StopReason.CANCEL if fault == "stop" else None
    outcome = decide(ended, reason, 0, False)  # type: ignore[arg-type]
    match fault:
        case "stop":
            assert outcome == RELEASED[StopReason.CANCEL]
        case "mirror":
            assert isinstance(outcome, Lost)
            assert (outcome.cause, outcome.folder, outcome.elsewhere) == ("store_unavailable", None, True)
        case "disk":
            assert isinstance(outcome, Lost)
            assert (outcome.cause, outcome.folder, outcome.elsewhere) == ("disk_full", data, False)
            assert outcome.detail.startswith("the disk is full: kmnist could not be stored: OSError: [Errno 28]")
        case _:
            assert isinstance(outcome, Failed)
            assert outcome.error.code == "data_error"


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_attempt_and_not_the_job_and_keeps_nothing(tmp_path: Path, mirror: Mirror) -> None:
    if (why := why_no_disks()) is not None:
        part_missing(why)
    disk = SmallDisk(tmp_path / "disk", 1)
    try:
        disk.leave(3 << 12)
        with pytest.raises(downloads.NoRoom) as full:
            built_in.load(KMNIST, disk.path, True)
        assert (full.value.code, full.value.data) == ("disk_full", {"folder": str(disk.path)})
        assert "No space left on device" in full.value.detail
        assert [name for name in remains(disk.path) if name.startswith((".download", "KMNIST/raw/"))] == []
        disk.free()
        assert len(built_in.load(KMNIST, disk.path, True).train_labels) == 20
    finally:
        disk.unmount()


def break_disk(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def broken(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_disk_that_cannot_be_used_is_an_outage(tmp_path: Path, mirror: Mirror, monkeypatch, number: int) -> None:
    break_disk(monkeypatch, number)
    with pytest.raises(downloads.NoRoom, match=os.strerror(number)):
        downloads.fetch_missing(KMNIST, tmp_path, no_stop)
    assert remains(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_data_folder_that_may_not_be_written_is_a_data_error(
    tmp_path: Path, mirror, monkeypatch, number: int
) -> None:
    """It may be read-only on purpose: a worker that took that for an outage would take no job any more."""
    break_disk(monkeypatch, number)
    with pytest.raises(DataError, match=os.strerror(number)) as error:
        built_in.load(KMNIST, tmp_path, True)
    assert not disk_is_unusable(error.value.__cause__)
