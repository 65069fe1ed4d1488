"""The artifact store: files of jobs and datasets through fsspec (a local folder, S3, memory).

Keys are built from ids and names that gradq chooses, never from a client's text.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mimetypes
import re
import secrets
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec

from shared.addresses import masked, secrets_of
from shared.disks import disk_is_full
from shared.errors import StoreUnavailable

MODEL = "model.safetensors"  # the weights at the end of the job
KINDS = {
    MODEL: "model",
    "best.safetensors": "model",
    "model.pt": "model",
    "model.onnx": "model",
    "model.json": "model",
    "predict.py": "model",
    "loss_curve.png": "plot",
    "loss_curve.svg": "plot",
    "predictions.png": "plot",
    "mistakes.png": "plot",
    "confusion_matrix.png": "plot",
    "first_layer.png": "plot",
    "metrics.csv": "metrics",
    "metrics.json": "metrics",
    "spec.json": "spec",
    "environment.json": "environment",
    "confusion_matrix.json": "evaluation",
    "gradient_check.json": "gradient_check",
    "parity.json": "parity",
    "walk.json": "walk",
}
JOB_FOLDER = re.compile(r"job_[0-9a-f]{32}")
BYTES = "application/octet-stream"
MEDIA_TYPES = {".safetensors": BYTES, ".pt": BYTES, ".onnx": BYTES, ".csv": "text/csv", ".py": "text/x-python"}
CHUNK = 1 << 20
READ_AHEAD = 1 << 20  # bytes, of each open file of a store that is no folder; s3fs would read and hold 50 MiB
PROBE, PROBE_BYTES = ".probe", 1 << 16  # the folder of the files that `probe` writes, and their size
DATASETS = "datasets"  # the folder of all datasets
NOT_OF_THE_STORE = (TypeError, AttributeError, AssertionError, MemoryError)  # s3fs raises ValueErrors, too
CONNECT_SECONDS = 5
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az"})
# characters that end a path, point elsewhere (`:`, `~`, `\`), or match many files
FOREIGN = re.compile(r"[\x00-\x1f\x7f\\*?\[\]:~\ud800-\udfff]")


@dataclass(frozen=True)
class StoredFile:
    """A file in the artifact store, under `key`."""

    name: str
    kind: str
    media_type: str
    size_bytes: int
    sha256: str
    key: str


class ArtifactStore:
    """Reads and writes files below one root: `file://` or `s3://`, or whatever else fsspec has a filesystem for.

    `answer_seconds`: how long S3 may take no byte of a request, or send none of its response. Whatever the filesystem's
    library raises because the store is away, full or refuses is a StoreUnavailable. A missing file is a
    FileNotFoundError, but only where the root is there: a folder that is not mounted has no files either.
    """

    def __init__(self, url: str, answer_seconds: float = 60.0) -> None:
        self.url = url
        self.fs, self.root = fsspec.core.url_to_fs(url, **_options(url, answer_seconds))
        self.is_local = "file" in _protocols(self.fs)
        self._is_atomic = not OBJECT_STORES.isdisjoint(_protocols(self.fs))
        self._has_bucket = False
        if hasattr(self.fs, "retries"):
            self.fs.retries = 2  # s3fs's own, on top of botocore's: by default 5 times 5 requests

    def put(self, key: str, path: Path) -> StoredFile:
        """Store the file at `path` under `key`; return its record.

        `key` never names a partial file: the file is written under a temporary name and renamed, except in object
        stores, which have no partial objects. Raises StoreUnavailable, and removes the temporary file.
        """
        target = self._path(key)
        size, sha256 = path.stat().st_size, sha256_of(path)
        temporary = f"{target}.{secrets.token_hex(4)}.part" if not self._is_atomic else target
        with self._translated(key, missing=False):
            try:
                self._make_folder(target)
                self.fs.put_file(str(path), temporary)
                if temporary != target:
                    self.fs.mv(temporary, target)
            except Exception:
                if temporary != target:
                    with contextlib.suppress(OSError):  # the disk may be full: a partial file must not keep it full
                        self.fs.rm_file(temporary)
                raise
        return StoredFile(
            name=path.name,
            kind=KINDS.get(path.name, "file"),
            media_type=media_type(path.name),
            size_bytes=size,
            sha256=sha256,
            key=key,
        )

    def get(self, key: str, path: Path) -> None:
        """Fetch a file. Raises FileNotFoundError, StoreUnavailable; OSError if there is no room at `path`."""
        with self._translated(key, fetches=True):
            self.fs.get_file(self._path(key), str(path))

    @property
    def reads(self) -> int:
        """How often a file is read whose content differs from the record before that is believed: once from a local
        folder, and twice over a network, where the transfer may have damaged it."""
        return 1 if self.is_local else 2

    def get_checked(self, key: str, path: Path, sha256: str) -> bool:
        """Fetch a file. Returns whether it has this sha256, in the last of `reads` tries. Raises as `get`."""
        for _ in range(self.reads):
            self.get(key, path)
            if sha256_of(path) == sha256:
                return True
        return False

    def read_checked(self, key: str, sha256: str) -> bytes:
        """The content of a file, which has this sha256. Raises FileNotFoundError, and StoreUnavailable, also if the
        content is another one in each of `reads` tries."""
        for _ in range(self.reads):
            with self.open(key) as file:
                content = file.read()
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
        raise StoreUnavailable(f"{key}: the content differs from what was stored")

    def open(self, key: str) -> IO[bytes]:
        """A file for reading, seekable. Raises FileNotFoundError, and StoreUnavailable, also from its methods."""
        ahead = {} if self.is_local else {"block_size": READ_AHEAD}
        with self._translated(key):
            file: IO[bytes] = self.fs.open(self._path(key), "rb", **ahead)
        return file if self.is_local else io.BufferedReader(_RemoteFile(self, key, file), CHUNK)

    def check(self, file: StoredFile) -> None:
        """Read a file back and compare its sha256. Raises StoreUnavailable if it differs, in each of `reads` tries, or
        cannot be read."""
        for _ in range(self.reads):
            try:
                with self.open(file.key) as stored:
                    found = hashlib.file_digest(stored, "sha256").hexdigest()  # type: ignore[arg-type]  # any binary file
            except OSError as error:
                raise StoreUnavailable(f"{file.key} cannot be read back: {error}") from error
            if found == file.sha256:
                return
        raise StoreUnavailable(f"{file.key}: the stored content differs from what was written")

    def probe(self) -> None:
        """Write a file of PROBE_BYTES and remove it. Raises StoreUnavailable."""
        path = self._path(f"{PROBE}/{secrets.token_hex(8)}")
        with self._translated(PROBE, missing=False):
            try:
                self._make_folder(path)
                self.fs.pipe_file(path, bytes(PROBE_BYTES))
            finally:
                with contextlib.suppress(Exception):  # the sweep removes what an outage has left
                    self.fs.rm_file(path)
                if self.is_local:
                    with contextlib.suppress(OSError):  # another process probes too
                        Path(path).parent.rmdir()

    def folders(self) -> list[str]:
        """The keys of the folders of jobs (`job_…`) and of datasets (`datasets/ds_…/…`), in order. A store may also
        have folders that are not gradq's."""
        with self._translated(""):
            self.check_root()
            jobs = [key for key in self._below("") if JOB_FOLDER.fullmatch(key)]
            datasets = [key for key in self._below(DATASETS) if key.startswith(f"{DATASETS}/ds_")]
            return [*sorted(jobs), *sorted(folder for key in datasets for folder in self._below(key))]

    def _below(self, key: str) -> list[str]:
        """The keys of the folders right below this one."""
        root = self._path("")
        try:
            found = self.fs.ls(self._path(key), detail=True)
        except FileNotFoundError:
            return []
        return [str(entry["name"]).removeprefix(root) for entry in found if entry["type"] == "directory"]

    def keys_of(self, folder: str) -> list[str]:
        """The keys of all files under the folder of a job or dataset, including partially written ones."""
        root = self._path("")
        with self._translated(folder):
            return [str(path).removeprefix(root) for path in self.fs.find(self._path(folder))]

    def has(self, key: str) -> bool:
        """Whether the file exists. Raises StoreUnavailable."""
        with self._translated(key):
            found = bool(self.fs.exists(self._path(key)))
            if not found:
                self.check_root()
        return found

    def missing(self, folder: str, keys: Iterable[str]) -> list[str]:
        """Those of the keys below the folder that have no file. One request, for any number of files that exist.
        Raises StoreUnavailable."""
        there = set(self.keys_of(folder))
        return [key for key in keys if key not in there and not self.has(key)]

    def local_path(self, key: str) -> Path | None:
        """The file's path if the store is a local folder, else None."""
        return Path(self._path(key)) if self.is_local else None

    def check_root(self) -> None:
        """Raise StoreUnavailable if the root is missing, such as a folder that is not mounted, or a bucket that is
        gone. A store in which nothing has been stored yet may have no root."""
        root = self.root if self.is_local else self.root.split("/", 1)[0]
        if root and not self.fs.exists(root):
            raise StoreUnavailable(f"{self.root} does not exist")

    def is_empty(self) -> bool:
        """Whether the store has no files; empty folders do not count. Raises StoreUnavailable."""
        with self._translated(""):
            return not self.fs.find(self.root)  # `walk` takes errors for empty folders

    def remove(self, key: str) -> None:
        """Remove one file; a missing file is not an error. Raises StoreUnavailable."""
        with self._translated(key), contextlib.suppress(FileNotFoundError):
            if self.fs.exists(self._path(key)):
                self.fs.rm_file(self._path(key))

    def remove_folder(self, key: str) -> int:
        """Remove a folder with everything in it, partially written files too, and its parent if that is now empty, as
        in object stores, which have no empty folders.

        Returns the bytes freed. Raises StoreUnavailable, and ValueError for a folder that has those of others.
        """
        if key in ("", DATASETS):
            raise ValueError(f"{key!r} is not the folder of one job or dataset")
        freed = 0
        with self._translated(key), contextlib.suppress(FileNotFoundError):  # another process removes it too
            if self.fs.exists(self._path(key)):
                freed = int(self.fs.du(self._path(key)))
                self.fs.rm(self._path(key), recursive=True)
        if "/" in key and (path := self.local_path(key)) is not None:
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        return freed

    def _path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{checked(key)}"

    def _make_folder(self, target: str) -> None:
        """Make the folder of a path. Object stores have none: there it is the bucket, made once if it is missing."""
        if not self._has_bucket:
            self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self._has_bucket = not self.is_local

    @contextlib.contextmanager
    def _translated(self, key: str, missing: bool = True, fetches: bool = False) -> Iterator[None]:
        """Turn what the filesystem raises into StoreUnavailable.

        `missing`: a FileNotFoundError passes if the root is there. `fetches`: a full disk is this host's, and passes.
        Raises ValueError for a key that is not valid.
        """
        checked(key)
        try:
            yield
        except StoreUnavailable:
            raise
        except FileNotFoundError as error:
            if missing:
                with self._translated(key, missing=False):
                    self.check_root()
                raise
            raise StoreUnavailable(self._without_secrets(f"{key}: {error}")) from error
        except NOT_OF_THE_STORE:
            raise
        except Exception as error:
            if fetches and disk_is_full(error):
                raise
            raise StoreUnavailable(self._without_secrets(f"{key}: {type(error).__name__}: {error}")) from error

    def _without_secrets(self, text: str) -> str:
        """The text of a library's error without the keys in the store's URL: it goes into logs of jobs."""
        return masked(text, secrets_of(self.url))


class _RemoteFile(io.RawIOBase):
    """A file of a filesystem that is not local; its reads raise StoreUnavailable too."""

    def __init__(self, store: ArtifactStore, key: str, file: IO[bytes]) -> None:
        self.store, self.key, self.file = store, key, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        with self.store._translated(self.key):
            content = self.file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


def checked(key: str) -> str:
    """Return the key if it is a path below the store's root on every system, without wildcards; else raise ValueError.

    gradq builds all keys itself, but a row may come from a restored backup, which is untrusted input.
    """
    if key and (FOREIGN.search(key) or any(part in ("", ".", "..") for part in key.split("/"))):
        raise ValueError(f"{key!r} is not a valid key of the artifact store")
    return key


def artifact_key(job_id: str, attempt: int, name: str) -> str:
    return f"{job_id}/{attempt}/{name}"


def checkpoint_key(job_id: str, attempt: int, step: int) -> str:
    return f"{job_id}/checkpoints/{attempt}-{step}.pt"


def attempt_of(key: str) -> int:
    """The attempt number in a key made by `artifact_key` or `checkpoint_key`. Raises ValueError for other keys."""
    _, folder, name = key.split("/", 2)
    return int(name.partition("-")[0] if folder == "checkpoints" else folder)


def dataset_folder(dataset_id: str) -> str:
    """A new folder key for a dataset's arrays, unique so that concurrent uploads of one dataset do not collide."""
    return f"{DATASETS}/{dataset_id}/{secrets.token_hex(4)}"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def media_type(name: str) -> str:
    return MEDIA_TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or BYTES


def media_types() -> list[str]:
    """The media types of all files that a job can have, `application/octet-stream` first."""
    known = {media_type(name) for name in KINDS}
    return [BYTES, *sorted(known - {BYTES})]


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _options(url: str, answer_seconds: float) -> dict[str, Any]:
    """Options of the filesystem. The listings that fsspec caches never expire, while other processes write and delete.
    For S3 the patience of botocore: a request that gets no response is sent twice."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if fsspec.utils.get_protocol(url) in ("s3", "s3a"):
        options["session"] = _s3_session()
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": answer_seconds,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connector_args": {"socket_factory": partial(_s3_socket, seconds=answer_seconds)},
        }
    return options


def _s3_socket(address: tuple[Any, ...], seconds: float) -> socket.socket:
    """A socket for one of getaddrinfo's addresses, whose connection ends if the server takes no byte for `seconds`.

    aiohttp limits the time until the response only once the body is sent, and the time to send it not at all. The
    kernel's limit holds for a host that is gone, and for a frozen process that acknowledges and reads nothing.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(1000 * seconds)))
    return made


def _s3_session() -> Any:
    """A session whose requests do not ask the server to confirm a body before it is sent (`Expect: 100-continue`):
    aiohttp waits for that confirmation without any timeout."""
    from aiobotocore.session import AioSession  # comes with gradq[s3]
    from botocore.handlers import add_expect_header

    session = AioSession()
    session.unregister("before-call.s3", add_expect_header)
    return session
