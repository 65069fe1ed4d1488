"""The built-in data sets as facts: shape, classes, sizes, files. Reads no pixel; worker/trainer/data.py does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DatasetInfo:
    name: str
    description: str
    shape: tuple[int, int, int]  # (channels, height, width)
    classes: tuple[str, ...]
    train_examples: int
    test_examples: int
    folder: str | None = None  # below GRADQ_DATA_DIR; None: ships with a package
    files: tuple[str, ...] = ()  # each may also carry .gz

    def missing_files(self, data_dir: Path) -> list[Path]:
        """The files that are not there, neither plain nor gzipped."""
        if self.folder is None:
            return []
        paths = [data_dir / self.folder / name for name in self.files]
        return [path for path in paths if not path.is_file() and not path.with_name(path.name + ".gz").is_file()]


DIGIT_NAMES = tuple(str(i) for i in range(10))

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
        ),
        DatasetInfo(
            name="mnist",
            description="28x28 grey handwritten digits (60 000 train, 10 000 test)",
            shape=(1, 28, 28),
            classes=DIGIT_NAMES,
            train_examples=60_000,
            test_examples=10_000,
            folder="MNIST/raw",
            files=(
                "train-images-idx3-ubyte",
                "train-labels-idx1-ubyte",
                "t10k-images-idx3-ubyte",
                "t10k-labels-idx1-ubyte",
            ),
        ),
    )
}
