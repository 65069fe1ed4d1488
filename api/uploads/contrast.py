"""Warnings about what a dataset cannot teach or test: a class of equal images or without test images, a channel that
hardly differs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from api.uploads.pixels import Array, chunks
from shared.datasets.catalog import Statistics

CHANNELS = ("red", "green", "blue")
NAMED = 5  # classes in a warning
SLIGHT = 0.5 / 255  # deviation as a share of the brightest pixel, below which a grey level is over two deviations


def warnings(images: Array, labels: Array, classes: Sequence[str], white: float, found: Statistics) -> tuple[str, ...]:
    """Warnings about the training images (N,C,H,W) from 0 to `white` with their labels (N); `found`: what was measured.

    Reads only until every class and every channel has shown a difference: the first chunk, of most datasets.
    """
    first = np.array([int(np.argmax(labels == label)) for label in range(len(classes))])  # of each class
    differs = np.bincount(labels, minlength=len(classes)) < 2
    lowest, highest = images[0].min((1, 2)), images[0].max((1, 2))
    for start, rows in chunks(images):
        lowest = np.minimum(lowest, rows.min((0, 2, 3)))
        highest = np.maximum(highest, rows.max((0, 2, 3)))
        those = labels[start : start + len(rows)]
        open_rows = np.flatnonzero(~differs[those])
        for row in open_rows:
            label = those[row]
            if not differs[label]:
                differs[label] = not np.array_equal(rows[row], images[first[label]])
        if differs.all() and (lowest < highest).all():
            break
    said = []
    if equal := [classes[int(label)] for label in np.flatnonzero(~differs)]:
        said.append(
            f"all training images of the class {_listed(equal)} are equal: was something lost before the upload?"
        )
    if untested := [name for name, n in zip(classes, found["counts"]["test"], strict=True) if n == 0]:
        said.append(f"the class {_listed(untested)} has no test images: test_loss and test_accuracy do not cover it")
    for channel, (low, high, std) in enumerate(zip(lowest, highest, found["std"], strict=True)):
        name = f"the channel {CHANNELS[channel]}" if len(lowest) == 3 else "the only channel"
        if low == high:
            said.append(
                f"{name} has the value {low:g} in all training images: it tells nothing, and its deviation is taken "
                "as 1"
            )
        elif std * white < SLIGHT * highest.max():
            said.append(
                f"{name} hardly differs in the training images: one grey level of 255 is {1 / 255 / std:.3g} of its "
                "standard deviations, so a small difference in other images can outweigh all the rest"
            )
    return tuple(said)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more
