"""The artifact store, in a folder and in memory: files are stored whole, and removed completely."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.transfers import Transfers

from shared.artifacts import KINDS, ArtifactStore, artifact_key, checkpoint_key, media_type, sha256_of
from shared.errors import StoreUnavailable

CONTENT = bytes(range(256)) * 5000  # more than one chunk


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    folder = tmp_path / "artifacts" if request.param == "file" else f"/{uuid4().hex}"
    store = ArtifactStore(f"{request.param}://{folder}")
    yield store
    if store.fs.exists(store.root):
        store.fs.rm(store.root, recursive=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(CONTENT)
    return path


def lying(store: ArtifactStore) -> list[str]:
    """The keys of all files in the store."""
    root = store.root.rstrip("/")
    return sorted(path.removeprefix(root).lstrip("/") for path in store.fs.find(root)) if store.fs.exists(root) else []


def test_what_is_put_comes_back_byte_for_byte(store: ArtifactStore, source: Path, tmp_path: Path) -> None:
    key = artifact_key("job_1", 2, source.name)
    file = store.put(key, source)
    assert (file.name, file.kind, file.media_type) == ("model.safetensors", "model", "application/octet-stream")
    assert (file.size_bytes, file.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert file.key == key == "job_1/2/model.safetensors"
    store.get(key, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT
    with store.open(key) as opened:
        assert opened.read() == CONTENT
    assert lying(store) == [key]  # and nothing else
    assert source.exists()


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_file_that_differs_is_read_once_more_over_a_network(
    store: ArtifactStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: int
) -> None:
    """And not from a local folder, where it would be the same."""
    source.write_bytes(b"a\x80")
    file = store.put("job_1/1/a", source)
    whole, count = damaged < store.reads, min(damaged + 1, store.reads)
    assert store.reads == (1 if store.is_local else 2)
    with monkeypatch.context() as patched:
        transfers = Transfers(patched, damaged)
        assert store.get_checked(file.key, tmp_path / "back", file.sha256) == whole
        assert transfers.count == count
    for read in (lambda: store.read_checked(file.key, file.sha256), lambda: store.check(file)):
        with monkeypatch.context() as patched:
            transfers = Transfers(patched, damaged)
            with contextlib.nullcontext() if whole else pytest.raises(StoreUnavailable, match="differs"):
                assert read() in (source.read_bytes(), None)
            assert transfers.count == count


def test_what_is_put_again_takes_the_place_of_the_first(store: ArtifactStore, source: Path) -> None:
    store.put("job_1/1/a", source)
    source.write_bytes(b"second")
    assert store.put("job_1/1/a", source).size_bytes == 6
    with store.open("job_1/1/a") as opened:
        assert opened.read() == b"second"
    assert lying(store) == ["job_1/1/a"]


@pytest.mark.parametrize("step", ["put_file", "mv"])
def test_a_put_that_fails_leaves_nothing_under_the_name(
    store: ArtifactStore, source: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(store.fs, step)

    def fail_half_way(*arguments: Any, **options: Any) -> None:
        if step == "put_file":
            source.write_bytes(CONTENT[:1000])
            real(*arguments, **options)
        raise OSError(28, "No space left on device")

    store.put("job_1/1/before", source)
    monkeypatch.setattr(store.fs, step, fail_half_way)
    with pytest.raises(StoreUnavailable, match="No space left"):
        store.put("job_1/1/a", source)
    monkeypatch.undo()
    assert "job_1/1/a" not in lying(store)
    assert "job_1/1/before" in lying(store)
    store.put("job_1/1/a", source)  # the next one succeeds
    store.remove_folder("job_1")
    assert lying(store) == []  # files of failed uploads are removed with the job


def test_a_file_that_is_not_there_is_an_os_error(store: ArtifactStore, source: Path, tmp_path: Path) -> None:
    store.put("job_1/1/a", source)
    with pytest.raises(FileNotFoundError):
        store.get("job_1/1/nothing", tmp_path / "back")
    with pytest.raises(FileNotFoundError):
        store.open("job_1/1/nothing")


def test_remove_deletes_one_file_and_ignores_a_missing_one(store: ArtifactStore, source: Path) -> None:
    store.put("job_1/1/a", source)
    store.put("job_1/1/b", source)
    store.remove("job_1/1/a")
    store.remove("job_1/1/a")
    assert lying(store) == ["job_1/1/b"]


def test_removing_a_job_takes_all_of_its_files_and_no_other_job_s(store: ArtifactStore, source: Path) -> None:
    kept = [artifact_key("job_10", 1, "a"), checkpoint_key("job_2", 1, 50)]
    for key in [artifact_key("job_1", 1, "a"), artifact_key("job_1", 2, "a"), checkpoint_key("job_1", 1, 50), *kept]:
        store.put(key, source)
    store.remove_folder("job_1")
    store.remove_folder("job_1")
    assert lying(store) == sorted(kept)


def test_a_folder_of_files_has_a_path_to_each_and_memory_has_none(store: ArtifactStore, source: Path) -> None:
    store.put("job_1/1/a", source)
    path = store.local_path("job_1/1/a")
    assert (path is None) == ("memory" in store.fs.protocol)
    assert path is None or path.read_bytes() == CONTENT


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_artifact_has_a_media_type(name: str) -> None:
    wanted = dict.fromkeys(("safetensors", "pt", "onnx"), "application/octet-stream")
    wanted |= {"json": "application/json", "csv": "text/csv", "png": "image/png", "svg": "image/svg+xml"}
    wanted |= {"py": "text/x-python"}
    assert media_type(name) == wanted[name.rsplit(".")[-1]]


def test_a_hash_is_that_of_the_bytes(source: Path) -> None:
    assert sha256_of(source) == hashlib.sha256(CONTENT).hexdigest()
