"""What the pictures of a job show, as one file: a picture that is drawn later has the bytes that it would have now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from shared.jobs.curves import Series

Array = np.ndarray[Any, Any]

VERSION = 1  # of the file
LARGEST_BYTES = 64 << 20  # of the file; that of 1000 classes has 10 MB


@dataclass(frozen=True)
class ShownImages:
    """`images` (N,H,W,C) uint8 with one or three channels; of each its true and predicted label, and the model's
    confidence in the latter, 0 to 1."""

    images: Array
    true: list[int]
    predicted: list[int]
    confidence: list[float]


@dataclass(frozen=True)
class FirstLayer:
    """`images` (N,H,W,3) uint8 of the weights of the first N of `units` units. `largest`: the absolute value that has
    the strongest colour. `is_grey`: each channel is a channel of the images. `is_last`: the units are the classes."""

    images: Array
    units: int
    largest: float
    is_grey: bool
    is_last: bool


@dataclass(frozen=True)
class Drawing:
    """`title` and `series` are of the curve. `matrix` (K,K) int64: test images by true (row) and predicted (column)
    label. `first_layer` is None for a network whose first layer is no picture."""

    title: str
    series: Series
    classes: list[str]
    matrix: Array
    predictions: ShownImages
    mistakes: ShownImages
    first_layer: FirstLayer | None

    def save(self, path: Path) -> None:
        """Raises OSError, as on a full disk."""
        arrays: dict[str, Any] = {
            "matrix": self.matrix,
            "predictions": self.predictions.images,
            "mistakes": self.mistakes.images,
        }
        if self.first_layer is not None:
            arrays["first_layer"] = self.first_layer.images
        facts = {
            "version": VERSION,
            **{"title": self.title, "series": self.series, "classes": self.classes},
            "predictions": _without_images(self.predictions),
            "mistakes": _without_images(self.mistakes),
            "first_layer": self.first_layer and _without_images(self.first_layer),
        }
        with path.open("wb") as file:
            np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path) -> Drawing:
        """Raises ValueError if this version of `save` has not written the file, and OSError if it cannot be read."""
        try:
            with ZipFile(path) as members:  # `save` compresses none: what is not as large as it says may be a bomb
                size = sum(member.file_size for member in members.infolist())
                if size > LARGEST_BYTES or any(member.compress_type != ZIP_STORED for member in members.infolist()):
                    raise ValueError(f"{path.name} is compressed, or has more than {LARGEST_BYTES} bytes")
            with np.load(path, allow_pickle=False) as arrays:
                facts = json.loads(arrays["facts"].tobytes())
                if facts["version"] != VERSION:
                    raise ValueError(f"{path.name} has version {facts['version']}, and this is version {VERSION}")
                units = facts["first_layer"]
                return cls(
                    title=facts["title"],
                    series={name: [(s, e, v) for s, e, v in points] for name, points in facts["series"].items()},
                    classes=facts["classes"],
                    matrix=arrays["matrix"],
                    predictions=ShownImages(arrays["predictions"], **facts["predictions"]),
                    mistakes=ShownImages(arrays["mistakes"], **facts["mistakes"]),
                    first_layer=units and FirstLayer(arrays["first_layer"], **units),
                )
        except (KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path.name}: {type(error).__name__}: {error}") from error


def _without_images(facts: ShownImages | FirstLayer) -> dict[str, Any]:
    return {name: value for name, value in vars(facts).items() if name != "images"}
