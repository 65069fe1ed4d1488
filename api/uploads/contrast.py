"""Warnings about stored images in which nothing differs: a class of equal images, a channel with one value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from api.uploads.pixels import Array, chunks

CHANNELS = ("red", "green", "blue")
NAMED = 5  # classes in a warning


def warnings(images: Array, labels: Array, classes: Sequence[str]) -> tuple[str, ...]:
    """Warnings about the training images (N,C,H,W) with their labels (N).

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
    found = []
    if equal := [classes[int(label)] for label in np.flatnonzero(~differs)]:
        more = f" and {len(equal) - NAMED} more" if len(equal) > NAMED else ""
        names = ", ".join(f"'{name}'" for name in equal[:NAMED])
        found.append(f"all training images of the class {names}{more} are equal: was something lost before the upload?")
    for channel in np.flatnonzero(lowest == highest):
        name = f"the channel {CHANNELS[channel]}" if len(lowest) == 3 else "the only channel"
        found.append(
            f"{name} has the value {lowest[channel]:g} in all training images: it tells nothing, and its deviation is "
            "taken as 1"
        )
    return tuple(found)
