"""The built-in datasets besides MNIST: read from small files in the original layout."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.images import idx, pixels

from shared.datasets.catalog import DATASETS, IDX_FILES
from shared.errors import DataError
from worker.trainer.data import built_in
from worker.trainer.data.cifar import ArraysOnly
from worker.trainer.nets import import_torchvision

CIFAR = DATASETS["cifar10"]


class Python2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its str, as in the original files."""

    write: Any  # which `_Pickler` sets
    dispatch: ClassVar[Any] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    def save_text(self, value: str) -> None:
        self.save_bytes(value.encode())

    dispatch[bytes], dispatch[str] = save_bytes, save_text


def batch(n: int = 10, seed: int = 0, **replaced: Any) -> bytes:
    images = pixels(n, 3072, seed=seed)
    content = {
        "batch_label": "batch 1",
        "labels": [i % 10 for i in range(n)],
        "data": images,
        "filenames": ["a.png"] * n,
    }
    file = io.BytesIO()
    Python2(file, 2).dump({**content, **replaced})
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar_files(folder: Path, packed: bool = False, **replaced: bytes) -> Path:
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for seed, name in enumerate(CIFAR.files):
        content = replaced.get(name, batch(seed=seed))
        (place / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def idx_files(folder: Path, name: str) -> Path:
    place = folder / str(DATASETS[name].folder)
    place.mkdir(parents=True)
    for file in IDX_FILES:
        array = pixels(20, 28, 28) if "images" in file else (np.arange(20) % 10).astype(np.uint8)
        (place / file).write_bytes(idx(array))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_is_read_in_the_order_of_its_batches(tmp_path: Path, packed: bool) -> None:
    loaded = built_in.load(CIFAR, cifar_files(tmp_path, packed), False)
    assert loaded.train_images.shape == (50, 3, 32, 32)
    assert loaded.train_images.dtype == torch.uint8
    wanted = np.concatenate([pixels(10, 3072, seed=seed) for seed in range(5)]).reshape(-1, 3, 32, 32)
    assert torch.equal(loaded.train_images, torch.from_numpy(wanted))
    assert loaded.test_images[0].flatten().tolist() == pixels(10, 3072, seed=5)[0].tolist()
    assert loaded.train_labels.tolist() == list(range(10)) * 5
    assert loaded.test_labels.dtype == torch.int64


def test_the_test_files_are_pickled_as_the_real_ones_are() -> None:
    content = batch()
    assert content[:2] == b"\x80\x02"
    assert b"cnumpy.core.multiarray\n_reconstruct" in content
    assert b"codecs" not in content  # what Python 3 would need to write bytes in protocol 2
    assert pickle.loads(content, encoding="latin1")["data"].shape == (10, 3072)


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil"),)


class Nested:
    """Refers to a harmful function of an allowed module."""

    def __reduce__(self) -> Any:
        return np.load, ("evil",)


@pytest.mark.parametrize("code", [Evil(), Nested(), print, np.frombuffer], ids=["touch", "load", "print", "frombuffer"])
def test_code_in_a_batch_is_refused_and_not_run(tmp_path: Path, monkeypatch, code: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifar_files(tmp_path, data_batch_3=pickle.dumps({"data": code, "labels": []}, 2))
    with pytest.raises(DataError, match=r"data_batch_3 is not a batch of cifar10: it refers to"):
        built_in.load(CIFAR, folder, False)
    assert not (tmp_path / "evil").exists()


def test_dotted_names_lead_nowhere() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"numpy\.ndarray\.tofile"):
        ArraysOnly(io.BytesIO(b"")).find_class("numpy", "ndarray.tofile")


BROKEN = {
    "empty": b"",
    "cut": batch()[:-50],
    "no pickle": b"<html>404 Not Found</html>",
    "no dict": pickle.dumps([1, 2], 2),
    "no labels": pickle.dumps({"data": 1}, 2),
    "another width": batch(data=pixels(10, 3071)),
    "floats": batch(data=np.zeros((10, 3072), np.float32)),
    "another count": batch(labels=[1, 2]),
    "labels of text": batch(labels=["a"] * 10),
    "a label too far": batch(labels=[10] * 10),
    "a negative label": batch(labels=[-1] * 10),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_batch_is_a_data_error(tmp_path: Path, fault: str) -> None:
    with pytest.raises(DataError, match=r"data_batch_2|cifar10 in"):
        built_in.load(CIFAR, cifar_files(tmp_path, data_batch_2=BROKEN[fault]), False)


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_the_cousins_of_mnist_are_read_from_folders_of_their_own(tmp_path: Path, name: str) -> None:
    loaded = built_in.load(DATASETS[name], idx_files(tmp_path, name), False)
    assert torch.equal(loaded.train_images[:, 0], torch.from_numpy(pixels(20, 28, 28)))
    assert loaded.test_labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10"])
def test_what_is_missing_is_named_with_its_folder(tmp_path: Path, name: str) -> None:
    info = DATASETS[name]
    with pytest.raises(DataError) as error:
        built_in.load(info, tmp_path, False)
    assert str(tmp_path / str(info.folder)) in error.value.detail
    assert info.files[0] in error.value.detail
    assert len(error.value.data["missing"]) == len(info.files)


def test_torchvision_still_has_what_is_asked_of_it() -> None:
    datasets = import_torchvision.import_torchvision().datasets
    assert all(hasattr(datasets, kind) for kind in import_torchvision.IDX_CLASSES.values())
    assert datasets.CIFAR10.base_folder == CIFAR.folder
    assert [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list] == list(CIFAR.files)
    ((name, urls, md5),) = import_torchvision.sources("cifar10")
    assert (name, len(md5), urls[0].rpartition("/")[2]) == ("cifar-10-python.tar.gz", 32, name)
    for name in ("fashion_mnist", "kmnist"):
        kind = getattr(datasets, import_torchvision.IDX_CLASSES[name])
        assert tuple(kind.classes) == DATASETS[name].classes
    for name in import_torchvision.IDX_CLASSES:
        facts = import_torchvision.sources(name)
        assert [file.removesuffix(".gz") for file, _, _ in facts] == list(IDX_FILES)
        assert all(urls and url.startswith("http") and url.endswith(file) for file, urls, _ in facts for url in urls)
