"""Facts about datasets: shape, classes, sizes, files; the built-in ones by name. Reads no images; the trainer does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")  # of an uploaded dataset
FACTS = "dataset.json"  # next to the arrays: the value of `DatasetInfo.to_json`
SAMPLES = "samples.png"  # next to the arrays: the first images of each class; not in uploads to versions up to 0.2.0


class Counts(TypedDict):
    """Examples of each class, in the order of `classes`."""

    train: list[int]
    test: list[int]


class Statistics(TypedDict):
    """What the images are like. `mean` and `std`, one per channel, are of the training split's pixels in [0, 1]."""

    counts: Counts
    mean: list[float]
    std: list[float]


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
    statistics: Statistics | None = field(default=None, hash=False)  # None for uploads to versions up to 0.2.0

    def missing_files(self, data_dir: Path) -> list[Path]:
        """The files that do not exist, plain or gzipped."""
        if self.folder is None:
            return []
        paths = [data_dir / self.folder / name for name in self.files]
        return [path for path in paths if not path.is_file() and not path.with_name(path.name + ".gz").is_file()]

    def has_samples(self, data_dir: Path) -> bool:
        """Whether the API can show images of this built-in dataset: not of CIFAR-10, whose files are pickles, nor of
        files that are missing."""
        return self.name == "digits" or (self.files == IDX_FILES and not self.missing_files(data_dir))

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


def _statistics(train: list[int], test: list[int], mean: list[float], std: list[float]) -> Statistics:
    return {"counts": {"train": train, "test": test}, "mean": mean, "std": std}


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
            statistics=_statistics(
                [160, 164, 159, 165, 163, 164, 163, 161, 156, 162], [18] * 10, mean=[0.3053], std=[0.3761]
            ),
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
            statistics=_statistics(
                [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
                [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
                mean=[0.1307],
                std=[0.3081],
            ),
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
            statistics=_statistics([6000] * 10, [1000] * 10, mean=[0.2860], std=[0.3530]),
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
            statistics=_statistics([6000] * 10, [1000] * 10, mean=[0.1918], std=[0.3483]),
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
            statistics=_statistics(
                [5000] * 10, [1000] * 10, mean=[0.4914, 0.4822, 0.4465], std=[0.2470, 0.2435, 0.2616]
            ),
        ),
    )
}

FindDataset = Callable[[str], DatasetInfo | None]  # returns None for an unknown name
