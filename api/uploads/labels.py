"""What counts as classes: numbers from 0 on, without a gap, each with something to train on; and who is held out."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from api.uploads.pixels import Array
from shared.errors import UnusableUpload

LEAST_TO_TRAIN, LEAST_TO_TEST = 8, 1
LONGEST_NAME = 128
PLAIN = re.compile(r"[\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]*")
MOST_CLASSES = 1000  # ImageNet's; the confusion matrix grows with their square, in every file and on every page


def as_labels(values: Array, name: str, n: int) -> Array:
    """`values` as (N) int64. Raises when they are not one class number an image."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        detail = f"{name} has the shape {values.shape}; labels are one number an image, shape (N): no one-hot rows"
        raise UnusableUpload("bad_labels", detail)
    if len(values) != n:
        detail = f"{name} has {len(values)} labels for {n} images; each image needs one"
        raise UnusableUpload("length_mismatch", detail)
    if values.dtype.kind not in "buif":
        raise UnusableUpload("bad_labels", f"{name} holds {values.dtype}; number the classes 0, 1, 2 …")
    # NaN is not equal to itself, so it counts as fractional too
    if values.dtype.kind == "f" and (wrong := np.flatnonzero(values != np.floor(values))).size:
        detail = f"{name}[{wrong[0]}] is {values[wrong[0]]}; classes are whole numbers: 0, 1, 2 …"
        raise UnusableUpload("bad_labels", detail)
    if n and (values < 0).any():
        first = int(np.flatnonzero(values < 0)[0])
        raise UnusableUpload("bad_labels", f"{name}[{first}] is {values[first]}; number the classes 0, 1, 2 …")
    if n and values.max() >= max(n, 2) * 2:  # more classes than images: there must be a gap, and int64 may not hold it
        raise UnusableUpload(
            "bad_labels", f"{name} goes up to {values.max()}; number the classes 0, 1, 2 … without a gap"
        )
    return values.astype(np.int64)


def check_classes(train: Array, test: Array | None, names: Sequence[str] | None) -> tuple[str, ...]:
    """The classes' names. Raises when a class has no example at all, or none to train on."""
    everyone = train if test is None else np.concatenate([train, test])
    n = int(everyone.max()) + 1 if len(everyone) else 0
    if names is None:
        names = [str(i) for i in range(n)]
        if missing := np.flatnonzero(np.bincount(everyone, minlength=n) == 0).tolist():
            detail = f"no image has the label {missing[0]}, and the labels go up to {n - 1}; number them without a gap"
            raise UnusableUpload("bad_labels", detail)
    elif n > len(names):
        raise UnusableUpload("bad_labels", f"a label is {n - 1}, and there are names for {len(names)} classes")
    check_names(names)
    if len(names) < 2:
        what = f"the only class is '{names[0]}'" if names else "there is no class"
        raise UnusableUpload("too_few_classes", f"{what}; it takes two to tell them apart")
    if len(names) > MOST_CLASSES:
        detail = f"{len(names)} classes, and at most {MOST_CLASSES} are taken; merge or leave out some"
        raise UnusableUpload("too_many_classes", detail)
    if empty := np.flatnonzero(np.bincount(train, minlength=len(names)) == 0).tolist():
        detail = f"the class '{names[empty[0]]}' has no image to train on; add some, or leave the class out"
        raise UnusableUpload("empty_class", detail, classes=[names[i] for i in empty[:100]])
    return tuple(names)


def check_names(names: Sequence[str]) -> None:
    """Each is shown to people, and kept as JSON in both databases."""
    for i, name in enumerate(names):
        if not 1 <= len(name) <= LONGEST_NAME:
            detail = f"the name of class {i}, {name[:40]!r}, has {len(name)} characters; it takes 1 to {LONGEST_NAME}"
            raise UnusableUpload("bad_labels", detail)
        if not PLAIN.fullmatch(name):
            detail = f"the name of class {i}, {name!a}, holds control characters, or what is no Unicode"
            raise UnusableUpload("bad_labels", detail)
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UnusableUpload("bad_labels", f"two classes are called '{twice}'; name each as no other")


def check_sizes(train: int, test: int) -> None:
    if train < LEAST_TO_TRAIN or test < LEAST_TO_TEST:
        detail = (
            f"{train} images to train on and {test} to test on; it takes {LEAST_TO_TRAIN} and {LEAST_TO_TEST} at least"
        )
        raise UnusableUpload("too_few_examples", detail)


def split(labels: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Indices to train on and to test on, in their order: of each class the same share, drawn by `seed`.

    No class gives its last example away.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    steps = np.floor(np.arange(len(labels) + 1) * fraction + 1e-9)
    held_out = by_class[np.diff(steps) > 0]
    counts, taken = np.bincount(labels), np.bincount(labels[held_out], minlength=int(labels.max(initial=-1)) + 1)
    for label in np.flatnonzero((taken == counts) & (counts > 0)):
        of_class = held_out[labels[held_out] == label]
        held_out = held_out[held_out != of_class[0]]
    kept = np.ones(len(labels), dtype=bool)
    kept[held_out] = False
    return np.flatnonzero(kept), np.sort(held_out)
