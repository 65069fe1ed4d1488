"""Validation of labels: class numbers from 0 without a gap, each with training examples; and the train/test split."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from api.uploads.pixels import Array
from shared.errors import UnusableUpload
from shared.plain_text import refusal

LEAST_TO_TRAIN, LEAST_TO_TEST = 8, 1
LONGEST_NAME = 128
MOST_MARKS = 4  # characters that one composed character is made of, at most
MOST_CLASSES = 1000  # as ImageNet; the confusion matrix, which is stored and displayed, grows with their square


def as_labels(values: Array, name: str, n: int) -> Array:
    """`values` as (N) int64. Raises UnusableUpload if they are not one class number per image."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        detail = f"{name} has the shape {values.shape}; labels are one number per image, shape (N), not one-hot rows"
        raise UnusableUpload("bad_labels", detail)
    if len(values) != n:
        detail = f"{name} has {len(values)} labels for {n} images; each image needs one label"
        raise UnusableUpload("length_mismatch", detail)
    if values.dtype.kind not in "buif":
        raise UnusableUpload("bad_labels", f"{name} has the type {values.dtype}; number the classes 0, 1, 2 …")
    # NaN is not equal to itself, so it is refused too
    if values.dtype.kind == "f" and (wrong := np.flatnonzero(values != np.floor(values))).size:
        detail = f"{name}[{wrong[0]}] is {values[wrong[0]]}; classes are integers: 0, 1, 2 …"
        raise UnusableUpload("bad_labels", detail)
    if n and (values < 0).any():
        first = int(np.flatnonzero(values < 0)[0])
        raise UnusableUpload("bad_labels", f"{name}[{first}] is {values[first]}; number the classes 0, 1, 2 …")
    # more classes than images: there must be a gap, and the value may not fit into int64
    if n and values.max() >= max(n, 2) * 2:
        raise UnusableUpload(
            "bad_labels", f"the largest label in {name} is {values.max()}; number the classes 0, 1, 2 … without a gap"
        )
    return values.astype(np.int64)


def check_classes(train: Array, test: Array | None, names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes, in Unicode's composed form. Raises UnusableUpload if a class has no example, or none to
    train on."""
    everyone = train if test is None else np.concatenate([train, test])
    n = int(everyone.max()) + 1 if len(everyone) else 0
    if names is None:
        names = [str(i) for i in range(n)]
        if missing := np.flatnonzero(np.bincount(everyone, minlength=n) == 0).tolist():
            detail = f"no image has the label {missing[0]}, but labels go up to {n - 1}; number them without a gap"
            raise UnusableUpload("bad_labels", detail)
    elif n > len(names):
        raise UnusableUpload(
            "bad_labels", f"the largest label is {n - 1}, but there are names for {len(names)} classes only"
        )
    names = [_composed(name) for name in names]  # so that equal names have equal characters
    check_names(names)
    if len(names) < 2:
        what = f"the only class is '{names[0]}'" if names else "there are no classes"
        raise UnusableUpload("too_few_classes", f"{what}; at least two are required")
    if len(names) > MOST_CLASSES:
        detail = f"{len(names)} classes; at most {MOST_CLASSES} are accepted. Merge or leave out some"
        raise UnusableUpload("too_many_classes", detail)
    if empty := np.flatnonzero(np.bincount(train, minlength=len(names)) == 0).tolist():
        detail = f"the class '{names[empty[0]]}' has no image to train on; add images, or leave the class out"
        raise UnusableUpload("empty_class", detail, classes=[names[i] for i in empty[:100]])
    return tuple(names)


def _composed(name: str) -> str:
    """The name in Unicode's composed form. One that is too long in any form is returned as it is: to compose marks
    takes the square of their number."""
    return name if len(name) > MOST_MARKS * LONGEST_NAME else unicodedata.normalize("NFC", name)


def check_names(names: Sequence[str]) -> None:
    """Raise UnusableUpload for names that cannot be displayed, or stored as JSON in both databases."""
    for i, name in enumerate(names):
        if not 1 <= len(name) <= LONGEST_NAME:
            detail = (
                f"the name of class {i}, {name[:40]!r}, has {len(name)} characters; 1 to {LONGEST_NAME} are allowed"
            )
            raise UnusableUpload("bad_labels", detail)
        if (wrong := refusal(name)) is not None:
            raise UnusableUpload("bad_labels", f"the name of class {i}, {name!a}, {wrong}")
    if len(set(names)) < len(names):
        counts = Counter(names)
        twice = next(name for name in names if counts[name] > 1)
        raise UnusableUpload("bad_labels", f"two classes have the name '{twice}'; names must be unique")


def check_sizes(train: int, test: int) -> None:
    if train < LEAST_TO_TRAIN or test < LEAST_TO_TEST:
        detail = (
            f"{train} images to train on and {test} to test on; the minimum is {LEAST_TO_TRAIN} and {LEAST_TO_TEST}"
        )
        raise UnusableUpload("too_few_examples", detail)


def split(labels: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Indices of the train and the test split, ascending: the same share of each class, drawn with `seed`.

    A class whose examples would all be in the test split keeps one to train on.
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
