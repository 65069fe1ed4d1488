"""The built-in datasets beyond MNIST: read from small files in the true layout, fetched by torchvision if allowed."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.images import idx, pixels

from shared.datasets.catalog import DATASETS, IDX_FILES
from shared.errors import DataError
from worker.trainer.data import datasets
from worker.trainer.data.cifar import ArraysOnly
from worker.trainer.nets import import_torchvision

CIFAR = DATASETS["cifar10"]


class Python2(pickle._Pickler):
    """Writes bytes as Python 2's str was written, as in the files that everybody has."""

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
    loaded = datasets.load(CIFAR, cifar_files(tmp_path, packed), False)
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
    """Takes its name from an allowed module, and means something else."""

    def __reduce__(self) -> Any:
        return np.load, ("evil",)


@pytest.mark.parametrize("code", [Evil(), Nested(), print, np.frombuffer], ids=["touch", "load", "print", "frombuffer"])
def test_code_in_a_batch_is_refused_and_not_run(tmp_path: Path, monkeypatch, code: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifar_files(tmp_path, data_batch_3=pickle.dumps({"data": code, "labels": []}, 2))
    with pytest.raises(DataError, match=r"data_batch_3 is not a batch of cifar10: it asks for"):
        datasets.load(CIFAR, folder, False)
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
        datasets.load(CIFAR, cifar_files(tmp_path, data_batch_2=BROKEN[fault]), False)


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_the_cousins_of_mnist_are_read_from_folders_of_their_own(tmp_path: Path, name: str) -> None:
    loaded = datasets.load(DATASETS[name], idx_files(tmp_path, name), False)
    assert torch.equal(loaded.train_images[:, 0], torch.from_numpy(pixels(20, 28, 28)))
    assert loaded.test_labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10"])
def test_what_is_missing_is_named_with_its_folder(tmp_path: Path, name: str) -> None:
    info = DATASETS[name]
    with pytest.raises(DataError) as error:
        datasets.load(info, tmp_path, False)
    assert str(tmp_path / str(info.folder)) in error.value.detail
    assert info.files[0] in error.value.detail
    assert len(error.value.data["missing"]) == len(info.files)


# --- fetched by torchvision -------------------------------------------------------------------------------------------


class Torchvision:
    """Stands in for torchvision.datasets: writes the files that the real one would have fetched."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.utils = SimpleNamespace(download_and_extract_archive=self.fetch)
        self.CIFAR10 = SimpleNamespace(url="http://there/cifar.tar.gz", filename="cifar.tar.gz", tgz_md5="c58f")

    def __getattr__(self, kind: str) -> Any:
        def make(root: str, download: bool) -> None:
            self.calls.append((kind, root, download))
            name = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist", "KMNIST": "kmnist"}[kind]
            idx_files(Path(root), name)

        return make

    def fetch(self, url: str, root: str, filename: str, md5: str) -> None:
        self.calls.append((url, root, filename, md5))
        cifar_files(Path(root))


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Torchvision:
    fake = Torchvision()
    monkeypatch.setattr(import_torchvision, "import_torchvision", lambda: SimpleNamespace(datasets=fake))
    return fake


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_missing_files_are_fetched_once_where_that_is_allowed(tmp_path: Path, torchvision, name, kind) -> None:
    for _ in range(2):
        assert len(datasets.load(DATASETS[name], tmp_path / "data", True).train_labels) == 20
    assert torchvision.calls == [(kind, str(tmp_path / "data"), True)]


def test_cifar10_is_fetched_without_having_torchvision_unpickle_it(tmp_path: Path, torchvision) -> None:
    assert len(datasets.load(CIFAR, tmp_path, True).train_labels) == 50
    assert torchvision.calls == [("http://there/cifar.tar.gz", str(tmp_path), "cifar.tar.gz", "c58f")]


def test_a_download_that_fails_names_the_file_and_the_reason(tmp_path: Path, torchvision) -> None:
    def fail(*_, **__):
        raise OSError("no route to host")

    torchvision.utils.download_and_extract_archive = fail
    with pytest.raises(
        DataError,
        match=r"data_batch_1 is missing in .*cifar-10-batches-py .*no route to host; put the files into .*py$",
    ):
        datasets.load(CIFAR, tmp_path, True)


def test_a_download_that_leaves_files_out_is_told(tmp_path: Path, torchvision) -> None:
    torchvision.utils.download_and_extract_archive = lambda *_, **__: None
    with pytest.raises(DataError, match="torchvision left no data_batch_1"):
        datasets.load(CIFAR, tmp_path, True)


def test_torchvision_still_has_what_is_asked_of_it() -> None:
    datasets = import_torchvision.import_torchvision().datasets
    assert all(hasattr(datasets, kind) for kind in import_torchvision.IDX_CLASSES.values())
    assert datasets.CIFAR10.base_folder == CIFAR.folder
    assert [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list] == list(CIFAR.files)
    assert callable(datasets.utils.download_and_extract_archive)
    for name in ("fashion_mnist", "kmnist"):
        kind = getattr(datasets, import_torchvision.IDX_CLASSES[name])
        assert tuple(kind.classes) == DATASETS[name].classes
        assert [file.removesuffix(".gz") for file, _ in kind.resources] == list(IDX_FILES)
