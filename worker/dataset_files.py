"""The files of an uploaded dataset on this host: in the store itself if that is a local folder, else in the cache."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.datasets import dataset_store
from shared.db.database import Database
from shared.db.tables import DatasetRow
from shared.errors import DataError, StoreUnavailable
from worker.folder_cache import FolderCache, HeldFolder


def local_folder(dataset_id: str, settings: Settings, database: Database, store: ArtifactStore) -> HeldFolder:
    """A folder with the dataset's files, which stay there while it is held.

    Raises DataError when they are gone or not whole, DamagedInTransit, StoreUnavailable, OSError of the cache's disk.
    """
    with database.read() as session:
        row = dataset_store.find(session, dataset_id)
    if row is None:
        raise DataError(f"the dataset {dataset_id} has been deleted; upload it again, and submit a new job")
    cache = FolderCache(settings.cache_dir, settings.cache_bytes)
    if (folder := store.local_path(row.folder)) is not None:
        try:
            _check_sizes(row, folder)
        except DataError:
            store.check_root()  # not mounted: nothing has been lost
            raise
        if not cache.names(f"{row.id}-*"):  # its trainer will measure it, and cache the figures
            forget_deleted(cache, database)
        return HeldFolder(folder)
    name = _cache_name(row)
    if (held := cache.find(name)) is not None:
        return held
    forget_deleted(cache, database)
    return cache.make(name, row.size_bytes, partial(fetch, row, store), required=True)


def fetch(row: DatasetRow, store: ArtifactStore, folder: Path) -> dict[str, str]:
    """Fetch the files into `folder` and check them. Returns their sha256, by name."""
    for name, file in row.files.items():
        try:
            whole = store.get_checked(f"{row.folder}/{name}", folder / name, file["sha256"])
        except FileNotFoundError as error:
            raise DataError(f"{name} of the dataset {row.id} is no longer in the store") from error
        if not whole:
            raise DamagedInTransit(f"{name} of the dataset {row.id} was fetched with another sha256 than stored")
    return {name: file["sha256"] for name, file in row.files.items()}


class DamagedInTransit(StoreUnavailable):
    """The file in the store may be intact: another attempt fetches it again."""


def forget_deleted(cache: FolderCache, database: Database) -> None:
    """Remove what is cached of datasets whose row has been deleted."""
    cached = {name: name.partition("-")[0] for name in cache.names(f"{dataset_store.UPLOADED}*")}
    with database.read() as session:
        known = dataset_store.known_among(session, sorted(set(cached.values())))
    for name, dataset_id in cached.items():
        if dataset_id not in known:
            cache.remove(name)


def _check_sizes(row: DatasetRow, folder: Path) -> None:
    for name, file in row.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file["size_bytes"]:
            raise DataError(f"{path} is missing or not whole; delete the dataset {row.id} and upload it again")


def _cache_name(row: DatasetRow) -> str:
    """Id and hash of the files' contents: another version of gradq may decode the same upload differently."""
    hashes = "".join(f"{name} {file['sha256']}\n" for name, file in sorted(row.files.items()))
    return f"{row.id}-{hashlib.sha256(hashes.encode()).hexdigest()[:16]}"
