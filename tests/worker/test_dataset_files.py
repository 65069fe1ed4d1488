"""An uploaded dataset is read from a local store in place; from others it is fetched once, checked and cached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from support.transfers import Transfers

from shared.artifacts import ArtifactStore, dataset_folder
from shared.config import Settings
from shared.datasets import dataset_store
from shared.datasets.catalog import DatasetInfo
from shared.db.database import Database
from shared.errors import DataError, StoreUnavailable
from worker.dataset_files import DamagedInTransit, local_folder
from worker.folder_cache import LOCK, MANIFEST, MUTEX, FolderCache

PETS, BIRDS = "ds_" + "1" * 32, "ds_" + "2" * 32
INFO = DatasetInfo("pets", "", (1, 6, 6), ("cats", "dogs"), 9, 1, source="upload")
CONTENT = {"train_images.npy": b"images" * 1000, "train_labels.npy": b"labels"}


@pytest.fixture
def database(settings: Settings, new_sqlite: Callable[[str], Database]) -> Iterator[Database]:
    settings.make_state_dir()
    database = new_sqlite(settings.database)
    yield database
    database.close()


@pytest.fixture
def remote() -> Iterator[ArtifactStore]:
    store = ArtifactStore(f"memory:///{uuid4().hex}")
    yield store
    if store.fs.exists(store.root):
        store.fs.rm(store.root, recursive=True)


def upload(database: Database, store: ArtifactStore, folder: Path, dataset_id: str = PETS) -> str:
    key, files = dataset_folder(dataset_id), []
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
        files.append(store.put(f"{key}/{name}", folder / name))
    with database.write() as session:
        dataset_store.add(session, dataset_id, INFO, "f" * 64, {}, key, files)
    return key


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (LOCK, MANIFEST)}


def cached(settings: Settings) -> list[Path]:
    return [path for path in settings.cache_dir.iterdir() if path.name != MUTEX]


def test_a_local_store_is_read_in_place(settings, database, tmp_path: Path) -> None:
    store = ArtifactStore(settings.artifacts)
    key = upload(database, store, tmp_path)
    folder = local_folder(PETS, settings, database, store).path
    assert folder == settings.state_dir / "artifacts" / key
    assert contents(folder) == CONTENT
    assert not settings.cache_dir.exists()


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_file_that_is_not_whole_is_a_data_error_that_names_it(settings, database, tmp_path: Path, damage) -> None:
    store = ArtifactStore(settings.artifacts)
    path = settings.state_dir / "artifacts" / upload(database, store, tmp_path) / "train_images.npy"
    path.unlink() if damage == "gone" else path.write_bytes(b"")
    with pytest.raises(DataError, match=str(path)):
        local_folder(PETS, settings, database, store)


def test_a_dataset_that_was_deleted_is_a_data_error(settings, database, remote) -> None:
    with pytest.raises(DataError, match="has been deleted"):
        local_folder(PETS, settings, database, remote)


def test_from_another_store_it_is_fetched_once(settings, database, remote, tmp_path: Path) -> None:
    key = upload(database, remote, tmp_path)
    folder = local_folder(PETS, settings, database, remote).path
    assert contents(folder) == CONTENT
    remote.remove_folder(key)
    assert local_folder(PETS, settings, database, remote).path == folder
    assert cached(settings) == [folder]


def test_a_damaged_file_is_not_cached(settings, database, remote, tmp_path: Path) -> None:
    key = upload(database, remote, tmp_path)
    (tmp_path / "other").write_bytes(b"imagEs" * 1000)
    remote.put(f"{key}/train_images.npy", tmp_path / "other")
    with pytest.raises(DamagedInTransit, match=r"train_images\.npy"):
        local_folder(PETS, settings, database, remote)
    assert cached(settings) == []


def test_a_file_that_was_damaged_once_is_fetched_again(
    settings, database, remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(database, remote, tmp_path)
    transfers = Transfers(monkeypatch, damaged=1)
    assert contents(local_folder(PETS, settings, database, remote).path) == CONTENT
    assert transfers.count == len(CONTENT) + 1


def test_a_dataset_that_is_damaged_on_its_way_is_a_store_that_is_not_available(
    settings, database, remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(database, remote, tmp_path)
    transfers = Transfers(monkeypatch, damaged=2)
    with pytest.raises(StoreUnavailable, match="another sha256"):
        local_folder(PETS, settings, database, remote)
    assert transfers.count == 2
    assert contents(local_folder(PETS, settings, database, remote).path) == CONTENT


def test_a_file_missing_in_the_store_is_a_data_error(settings, database, remote, tmp_path: Path) -> None:
    remote.remove_folder(upload(database, remote, tmp_path))
    with pytest.raises(DataError, match=r"train_images\.npy .* is no longer in the store"):
        local_folder(PETS, settings, database, remote)
    assert cached(settings) == []


def test_several_supervisors_at_once_get_the_same_whole_folder(
    settings, database, remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(database, remote, tmp_path)
    barrier, found, reading, get = threading.Barrier(4), [], threading.Lock(), remote.get

    def one_at_a_time(key: str, path: Path) -> None:
        with reading:  # a file in fsspec's memory is one object with one position for all readers
            get(key, path)

    monkeypatch.setattr(remote, "get", one_at_a_time)

    def look() -> None:
        barrier.wait()
        found.append(local_folder(PETS, settings, database, remote).path)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert contents(found[0]) == CONTENT
    assert cached(settings) == [found[0]]


def test_the_cache_forgets_what_was_deleted(settings, database, remote, tmp_path: Path) -> None:
    upload(database, remote, tmp_path)
    local_folder(PETS, settings, database, remote)
    with database.write() as session:
        dataset_store.remove(session, PETS)
    upload(database, remote, tmp_path, BIRDS)
    folder = local_folder(BIRDS, settings, database, remote).path
    assert cached(settings) == [folder]


@pytest.mark.parametrize("damage", ["cut", "other bytes", "gone"])
def test_a_cached_file_that_was_damaged_is_fetched_again(settings, database, remote, tmp_path: Path, damage) -> None:
    upload(database, remote, tmp_path)
    path = local_folder(PETS, settings, database, remote).path / "train_images.npy"
    path.unlink() if damage == "gone" else path.write_bytes(b"" if damage == "cut" else b"imagEs" * 1000)
    assert contents(local_folder(PETS, settings, database, remote).path) == CONTENT


def test_a_dataset_is_fetched_also_if_the_cache_may_not_hold_so_much(settings, database, remote, tmp_path) -> None:
    small = settings.model_copy(update={"cache_bytes": 1000})
    upload(database, remote, tmp_path)
    upload(database, remote, tmp_path, BIRDS)
    pets = local_folder(PETS, small, database, remote)
    birds = local_folder(BIRDS, small, database, remote)
    assert contents(pets.path) == contents(birds.path) == CONTENT, "the other one is in use"
    pets.release()
    birds.release()
    with database.write() as session:
        dataset_store.remove(session, BIRDS)
    upload(database, remote, tmp_path, "ds_" + "3" * 32)
    third = local_folder("ds_" + "3" * 32, small, database, remote)
    assert cached(settings) == [third.path]


def test_what_was_measured_of_a_deleted_dataset_is_forgotten(settings, database, tmp_path: Path) -> None:
    store = ArtifactStore(settings.artifacts)
    cache = FolderCache(settings.cache_dir, 1 << 20)

    def write(folder: Path) -> dict[str, str]:
        (folder / "figures").write_bytes(b"1")
        return {}

    for dataset_id in (PETS, BIRDS):
        cache.make(f"{dataset_id}-measured-1", 1, write)
    upload(database, store, tmp_path, "ds_" + "3" * 32)
    upload(database, store, tmp_path, BIRDS)
    local_folder("ds_" + "3" * 32, settings, database, store)
    assert [path.name for path in cached(settings)] == [f"{BIRDS}-measured-1"]
