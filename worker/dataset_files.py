"""The files of an uploaded dataset on this host: in the store itself if that is a local folder, else in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import time
from pathlib import Path

from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.datasets import dataset_store
from shared.db.database import Database
from shared.db.tables import DatasetRow
from shared.errors import DataError, StoreUnavailable

PART_SECONDS = 24 * 3600.0  # a fetch takes less: an older temporary folder is of a process that ended


def local_folder(dataset_id: str, settings: Settings, database: Database, store: ArtifactStore) -> Path:
    """A folder with the dataset's files.

    Raises DataError when they are gone or not whole, DamagedInTransit, StoreUnavailable.
    """
    with database.read() as session:
        row = dataset_store.find(session, dataset_id)
    if row is None:
        raise DataError(f"the dataset {dataset_id} has been deleted; upload it again, and submit a new job")
    if (folder := store.local_path(row.folder)) is not None:
        try:
            _check_sizes(row, folder)
        except DataError:
            store.check_root()  # not mounted: nothing has been lost
            raise
        return folder
    cached = settings.cache_dir / _cache_name(row)
    if not cached.is_dir():
        forget_deleted(settings.cache_dir, database)
        fetch(row, cached, store)
    return cached


def fetch(row: DatasetRow, cached: Path, store: ArtifactStore) -> None:
    """Fetch and check the files in a temporary folder, then rename it. Of concurrent calls the first rename wins."""
    part = cached.with_name(f".{cached.name}.{secrets.token_hex(4)}")
    part.mkdir(parents=True)
    try:
        for name, file in row.files.items():
            try:
                whole = store.get_checked(f"{row.folder}/{name}", part / name, file["sha256"])
            except FileNotFoundError as error:
                raise DataError(f"{name} of the dataset {row.id} is no longer in the store") from error
            if not whole:
                raise DamagedInTransit(f"{name} of the dataset {row.id} was fetched with another sha256 than stored")
        part.rename(cached)
    except OSError:
        if not cached.is_dir():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


class DamagedInTransit(StoreUnavailable):
    """The file in the store may be intact: another attempt fetches it again."""


def forget_deleted(cache: Path, database: Database) -> None:
    """Remove cached datasets whose row has been deleted, and what a process that ended meanwhile has fetched of one."""
    for part in cache.glob(".ds_*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > PART_SECONDS:
                shutil.rmtree(part, ignore_errors=True)
    cached = {folder.name: folder for folder in cache.glob("ds_*")}
    with database.read() as session:
        known = dataset_store.known_among(session, [name.partition("-")[0] for name in cached])
    for name, folder in cached.items():
        if name.partition("-")[0] not in known:
            shutil.rmtree(folder, ignore_errors=True)


def _check_sizes(row: DatasetRow, folder: Path) -> None:
    for name, file in row.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file["size_bytes"]:
            raise DataError(f"{path} is missing or not whole; delete the dataset {row.id} and upload it again")


def _cache_name(row: DatasetRow) -> str:
    """Id and hash of the files' contents: another version of gradq may decode the same upload differently."""
    hashes = "".join(f"{name} {file['sha256']}\n" for name, file in sorted(row.files.items()))
    return f"{row.id}-{hashlib.sha256(hashes.encode()).hexdigest()[:16]}"
