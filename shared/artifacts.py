"""The artifact store: files of jobs and datasets through fsspec (a local folder, S3, memory).

Keys are built from ids and names that gradq chooses, never from a client's text.
"""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec

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
BYTES = "application/octet-stream"
MEDIA_TYPES = {".safetensors": BYTES, ".pt": BYTES, ".onnx": BYTES, ".csv": "text/csv", ".py": "text/x-python"}
CHUNK = 1 << 20
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
    """Reads and writes files below one root: `file://` or `s3://`, or whatever else fsspec has a filesystem for."""

    def __init__(self, url: str) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def put(self, key: str, path: Path) -> StoredFile:
        """Store the file at `path` under `key`; return its record.

        It is written under a temporary name and then renamed, so that `key` never names a partial file. Raises OSError,
        and removes the temporary file, if it cannot be stored.
        """
        target = self._path(key)
        self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        temporary = f"{target}.{secrets.token_hex(4)}.part"
        try:
            self.fs.put_file(str(path), temporary)
            self.fs.mv(temporary, target)
        except OSError:
            with contextlib.suppress(OSError):  # the disk may be full: a partial file must not keep it full
                self.fs.rm_file(temporary)
            raise
        return StoredFile(
            name=path.name,
            kind=KINDS.get(path.name, "file"),
            media_type=media_type(path.name),
            size_bytes=path.stat().st_size,
            sha256=sha256_of(path),
            key=key,
        )

    def get(self, key: str, path: Path) -> None:
        self.fs.get_file(self._path(key), str(path))

    def open(self, key: str) -> IO[bytes]:
        file: IO[bytes] = self.fs.open(self._path(key), "rb")
        return file

    def check(self, file: StoredFile) -> None:
        """Read a file back and compare its sha256. Raises OSError if it differs or cannot be read."""
        with self.open(file.key) as stored:
            found = hashlib.file_digest(stored, "sha256").hexdigest()  # type: ignore[arg-type]  # any binary file does
        if found != file.sha256:
            raise OSError(f"{file.key}: the stored content differs from what was written")

    def keys_of(self, job_id: str) -> list[str]:
        """The keys of all files under the job's folder, including partially written ones."""
        root = self._path("")
        return [str(path).removeprefix(root) for path in self.fs.find(self._path(job_id))]

    def has(self, key: str) -> bool:
        return bool(self.fs.exists(self._path(key)))

    def local_path(self, key: str) -> Path | None:
        """The file's path if the store is a local folder, else None."""
        return Path(self._path(key)) if "file" in _protocols(self.fs) else None

    def is_empty(self) -> bool:
        """Whether the store has no files; empty folders do not count."""
        return not any(files for _, _, files in self.fs.walk(self.root))

    def remove(self, key: str) -> None:
        """Remove one file; a missing file is not an error."""
        if self.has(key):
            self.fs.rm_file(self._path(key))

    def remove_job(self, job_id: str) -> int:
        """Remove the job's folder, including partially written files of lost attempts. Returns the bytes freed."""
        return self.remove_folder(job_id)

    def remove_folder(self, key: str) -> int:
        """Remove a folder, and its parent if that is now empty, as in object stores, which have no empty folders.

        Returns the bytes freed.
        """
        freed = 0
        if self.has(key):
            freed = int(self.fs.du(self._path(key)))
            self.fs.rm(self._path(key), recursive=True)
        if "/" in key and (path := self.local_path(key)) is not None:
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        return freed

    def _path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{checked(key)}"


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
    """The attempt number in a key made by `artifact_key` or `checkpoint_key`."""
    _, folder, name = key.split("/", 2)
    return int(name.partition("-")[0] if folder == "checkpoints" else folder)


def dataset_folder(dataset_id: str) -> str:
    """A new folder key for a dataset's arrays, unique so that concurrent uploads of one dataset do not collide."""
    return f"datasets/{dataset_id}/{secrets.token_hex(4)}"


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
