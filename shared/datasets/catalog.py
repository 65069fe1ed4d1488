"""Facts about datasets: shape, classes, sizes, files; the built-in ones by name. Reads no images; the trainer does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")  # of an uploaded dataset
FACTS = "dataset.json"  # next to the arrays: the value of `DatasetInfo.to_json`


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset's facts. Pixels are stored as `dtype` from 0 to `white`."""

    name: str
    description: str
    shape: tuple[int, int, int]  # (channels, height, width)
    classes: tuple[str, ...]
    train_examples: int
    test_examples: int
    folder: str | None = None  # below GRADQ_DATA_DIR; None: part of a package, or uploaded
    files: tuple[str, ...] = ()  # each may also be gzipped, with the suffix .gz
    dtype: Literal["uint8", "float32"] = "uint8"
    white: float = 255.0
    source: Literal["builtin", "upload"] = "builtin"
    white_reason: str | None = None  # why this number is white; None for uploads to earlier versions
    warnings: tuple[str, ...] = ()  # what an upload should be checked for

    def missing_files(self, data_dir: Path) -> list[Path]:
        """The files that do not exist, plain or gzipped."""
        if self.folder is None:
            return []
        paths = [data_dir / self.folder / name for name in self.files]
        return [path for path in paths if not path.is_file() and not path.with_name(path.name + ".gz").is_file()]

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values, for a row or a file."""
        facts = asdict(self)
        lists = {name: list(facts[name]) for name in ("shape", "classes", "files", "warnings")}
        return {**facts, **lists}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        channels, height, width = facts["shape"]
        sequences = {name: tuple(facts.get(name, ())) for name in ("classes", "files", "warnings")}
        return cls(**{**facts, **sequences, "shape": (channels, height, width)})


DIGIT_NAMES = tuple(str(i) for i in range(10))
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            description="8x8 grey handwritten digits that ship with scikit-learn (1617 train, 180 test)",
            shape=(1, 8, 8),
            classes=DIGIT_NAMES,
            train_examples=1617,
            test_examples=180,
            dtype="float32",
            white=16.0,
        ),
        DatasetInfo(
            name="mnist",
            description="28x28 grey handwritten digits (60 000 train, 10 000 test)",
            shape=(1, 28, 28),
            classes=DIGIT_NAMES,
            train_examples=60_000,
            test_examples=10_000,
            folder="MNIST/raw",
            files=IDX_FILES,
        ),
        DatasetInfo(
            name="fashion_mnist",
            description="28x28 grey pictures of clothes, by Zalando Research (60 000 train, 10 000 test)",
            shape=(1, 28, 28),
            classes=(
                *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
                *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            ),
            train_examples=60_000,
            test_examples=10_000,
            folder="FashionMNIST/raw",
            files=IDX_FILES,
        ),
        DatasetInfo(
            name="kmnist",
            description="28x28 grey cursive hiragana, by ROIS-DS CODH (60 000 train, 10 000 test)",
            shape=(1, 28, 28),
            classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            train_examples=60_000,
            test_examples=10_000,
            folder="KMNIST/raw",
            files=IDX_FILES,
        ),
        DatasetInfo(
            name="cifar10",
            description="32x32 colour photographs of animals and vehicles (50 000 train, 10 000 test)",
            shape=(3, 32, 32),
            classes=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            train_examples=50_000,
            test_examples=10_000,
            folder="cifar-10-batches-py",
            files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
        ),
    )
}

FindDataset = Callable[[str], DatasetInfo | None]  # returns None for an unknown name
