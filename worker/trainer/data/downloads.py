"""Downloads built-in datasets: files appear complete or not at all, one job downloads a dataset at a time, and neither
a mirror nor another job is waited for longer than the job itself may run."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import os
import shutil
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from errno import ENOLCK, EOPNOTSUPP, EROFS
from functools import partial
from http.client import HTTPException
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from shared.datasets.catalog import DATASETS, DatasetInfo
from shared.disks import disk_error, disk_is_unusable
from shared.errors import DataError, TrainingError
from shared.version import VERSION

CHUNK = 1 << 16
SILENT_SECONDS = 15.0  # without a byte from a mirror, after which it counts as away
SLOWEST = 1024  # bytes per second, in each SILENT_SECONDS
TRIES = 2  # of a file that arrives with another checksum
PAUSE_SECONDS = 0.2  # between two looks at whether the job is asked to stop
AWAY = frozenset({408, 425, 429, *range(500, 600)})  # the statuses that another request may not get

# of a network filesystem without locks, where two jobs may download the same: the files are renamed when complete
NO_LOCKS = (ENOLCK, EOPNOTSUPP)

CheckStop = Callable[[], None]  # raises StopRequested if the job is asked to stop


class MirrorAway(TrainingError):
    """Ends the attempt, and not the job: the code is that of an outage."""

    code, title = "store_unavailable", "The mirror of a dataset is not available"


class NoRoom(TrainingError):
    """Ends the attempt, and not the job. `data` has the `folder`, which the worker probes until it takes files."""

    code, title = "disk_full", "The disk of the datasets cannot be used"


def fetch_missing(info: DatasetInfo, data_dir: Path, check_stop: CheckStop) -> None:
    """Download the files of a built-in dataset that are missing below `data_dir`.

    Raises DataError if no mirror has them, or they may not be written there; MirrorAway, NoRoom, and whatever
    `check_stop` raises.
    """
    try:
        with _lock(info.name, data_dir, check_stop):
            _remove_leftovers(info.name, data_dir)
            # else another job downloaded them while this one waited
            if missing := info.missing_files(data_dir):
                _fetch(info, missing, _folder(info.name, data_dir), check_stop)
    except OSError as error:
        # a data folder that is read-only is that of the operator, and no outage
        if error.errno == EROFS or not disk_is_unusable(error):
            raise DataError(f"{data_dir} takes no files: {error}") from None
        raise NoRoom(f"{info.name} could not be stored: {disk_error(error, data_dir)}", folder=str(data_dir)) from error


# --- one job at a time ------------------------------------------------------------------------------------------------


def _folder(name: str, data_dir: Path) -> Path:
    """Where the files of a dataset are until they are complete: on the same disk, to be renamed from there."""
    return data_dir / f".download-{name}"


@contextlib.contextmanager
def _lock(name: str, data_dir: Path, check_stop: CheckStop) -> Iterator[None]:
    """Hold the lock of a dataset's download; the end of the process releases it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = os.open(data_dir / f".download-{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        while not _taken(lock):
            check_stop()
            time.sleep(PAUSE_SECONDS)
        yield
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _remove_leftovers(name: str, data_dir: Path) -> None:
    """Remove what killed processes have left: of this dataset, whose lock is held, and of those that none downloads."""
    for other in DATASETS:
        folder = _folder(other, data_dir)
        if other == name:
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists():
            lock = os.open(data_dir / f".download-{other}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                if _taken(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


# --- the files --------------------------------------------------------------------------------------------------------


def _fetch(info: DatasetInfo, missing: list[Path], folder: Path, check_stop: CheckStop) -> None:
    """Download and unpack into `folder`, then rename each file. Raises OSError, and as `fetch_missing`."""
    from worker.trainer.nets import import_torchvision

    folder.mkdir()
    try:
        for name, urls, md5 in import_torchvision.sources(info.name):
            packed = folder / name
            if name.endswith(".tar.gz"):
                _download(urls, md5, packed, check_stop)
                _unpack_tar(packed, info, missing, folder, check_stop)
            elif name.removesuffix(".gz") in (path.name for path in missing):
                _download(urls, md5, packed, check_stop)
                with gzip.open(packed) as unpacked:
                    _write(unpacked, packed.with_suffix(""))
        if absent := [path.name for path in missing if not (folder / path.name).is_file()]:
            raise DataError(f"{absent[0]} of {info.name} is in none of the files of its mirrors")
        missing[0].parent.mkdir(parents=True, exist_ok=True)
        for path in missing:
            (folder / path.name).replace(path)
    except (gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"a file of {info.name} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a disk that is full must not be kept full


def _unpack_tar(archive: Path, info: DatasetInfo, missing: list[Path], folder: Path, check_stop: CheckStop) -> None:
    """Unpack the missing files, and nothing else."""
    wanted = {f"{info.folder}/{path.name}": path.name for path in missing}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            check_stop()
            if member.name in wanted and (file := tar.extractfile(member)) is not None:
                _write(file, folder / wanted[member.name])


def _write(source: BufferedIOBase | IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
        file.flush()
        os.fsync(file.fileno())  # its name must not be on the disk before its content


# --- mirrors ----------------------------------------------------------------------------------------------------------


class _Away(Exception):
    """A mirror that may respond to another request."""


class _Refused(Exception):
    """A mirror that does not have the file, or has another one."""


def _download(urls: Sequence[str], md5: str, path: Path, check_stop: CheckStop) -> None:
    """Fetch a file to `path` from the first mirror that has it. Raises DataError, MirrorAway, OSError of the disk."""
    found, away = list[str](), False
    for url in urls:
        try:
            _download_checked(url, md5, path, check_stop)
        except (_Away, _Refused) as error:
            away = away or isinstance(error, _Away)
            found.append(f"{url}: {error}")
        else:
            return
    raise (MirrorAway if away else DataError)(f"{path.name} could not be downloaded: {'; '.join(found)}")


def _download_checked(url: str, md5: str, path: Path, check_stop: CheckStop) -> None:
    """A file that arrives with another checksum is requested once more before that is believed."""
    for _ in range(TRIES):
        with path.open("wb") as file:
            received = _in_thread(partial(_receive, url, file), check_stop)
        if received == md5:
            return
    raise _Refused(f"its md5 is {received}, and should be {md5}")


def _in_thread(work: Callable[[], str], check_stop: CheckStop) -> str:
    """The result of `work`, or its exception. It may wait for a name server or a mirror, which no signal ends: if the
    job is asked to stop, its thread is left behind, and ends with the process."""
    future = Future[str]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="download", daemon=True).start()
    while not wait([future], timeout=PAUSE_SECONDS).done:
        check_stop()
    return future.result()


def _receive(url: str, file: IO[bytes]) -> str:
    """Write the response to `file` and return its md5. Raises _Away, _Refused, OSError of the disk."""
    request = urllib.request.Request(url, headers={"User-Agent": f"gradq/{VERSION}"})
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with contextlib.ExitStack() as stack:
        with _translated():
            # the URLs are torchvision's, and no client's
            response = stack.enter_context(urllib.request.urlopen(request, timeout=SILENT_SECONDS))  # nosec B310
        expected, pace = response.length, _Pace()
        while True:
            with _translated():
                chunk = response.read1(CHUNK)  # what has arrived; `read` would wait for all of CHUNK
                pace.add(len(chunk))
            if not chunk:
                break
            digest.update(chunk)
            size += file.write(chunk)
    if expected is not None and size != expected:
        raise _Away(f"the connection ended after {size} of {expected} bytes")
    return digest.hexdigest()


class _Pace:
    """Raises TimeoutError for a mirror that sends less than SLOWEST: it would hold the lock for hours."""

    def __init__(self) -> None:
        self.began, self.bytes = time.monotonic(), 0

    def add(self, size: int) -> None:
        self.bytes += size
        if (seconds := time.monotonic() - self.began) >= SILENT_SECONDS:
            if self.bytes < SLOWEST * seconds:
                raise TimeoutError(f"{self.bytes} bytes in {seconds:.0f} s")
            self.began, self.bytes = time.monotonic(), 0


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise (_Away if error.code in AWAY else _Refused)(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:  # of the connection: nothing else is done inside
        raise _Away(str(error) or type(error).__name__) from None
