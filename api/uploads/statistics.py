"""What the images of a dataset are like: examples of each class, mean and standard deviation of the pixels."""

from __future__ import annotations

import numpy as np

from api.uploads.pixels import Array, chunks
from shared.datasets.catalog import Statistics


def measure(images: Array, train_labels: Array, test_labels: Array, classes: int, white: float) -> Statistics:
    """The statistics of a dataset; `images` are those of the training split, (N,C,H,W) from 0 to `white`.

    Mean and deviation are those of all pixels of a channel in [0, 1], in float64; the deviation is that of the
    population. Bytes are counted in one pass; other types take two.
    """
    n = images[:, 0].size
    if images.dtype == np.uint8:
        counts = np.zeros((images.shape[1], 256), np.int64)
        for _, rows in chunks(images):
            counts += [np.bincount(rows[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
        values = np.arange(256) / white
        mean = counts @ values / n
        variance = (counts * np.square(values - mean[:, None])).sum(1) / n
    else:
        total, squares = np.zeros((2, images.shape[1]))
        for _, rows in chunks(images):
            total += rows.sum((0, 2, 3), dtype=np.float64)
        mean = total / white / n
        for _, rows in chunks(images):
            squares += np.square(rows / np.float64(white) - mean[:, None, None]).sum((0, 2, 3))
        variance = squares / n
    return {
        "counts": {
            "train": np.bincount(train_labels, minlength=classes).tolist(),
            "test": np.bincount(test_labels, minlength=classes).tolist(),
        },
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
    }
