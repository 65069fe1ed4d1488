"""The examples held out for validation: a pure function of the labels, the share and the seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.errors import DataError
from worker.trainer import seeds

NAMED_CLASSES = 10  # in a warning


def split(labels: Tensor, fraction: float, seed: int, streams: int = seeds.STREAMS) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the held-out examples, int64 each, ascending; none held out for fraction 0.

    `labels` (N) int64 are those of all of them; round(N * fraction) are held out: the same share of each
    class, and at most all but one of its examples, for which fewer are held out in all if need be. Versions up to 0.2.0
    (`streams` 1) chose them without regard to classes. Raises DataError if no class has an example to spare.
    """
    n = len(labels)
    if not fraction:
        return torch.arange(n), torch.arange(0)
    shuffled = torch.randperm(n, generator=seeds.generator(seed, "split", streams=streams))
    number = round(n * fraction)
    held_out = shuffled[:number] if streams == seeds.LOW_BITS else _stratified(labels, shuffled, number)
    if number and not len(held_out):
        raise DataError(
            f"each class has a single image to train on, so none can be held out for validation ({n} images in all); "
            "add images, or set validation to 'test'"
        )
    kept = torch.ones(n, dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().squeeze(1), held_out.sort().values


def _stratified(labels: Tensor, shuffled: Tensor, number: int) -> Tensor:
    """`number` of the indices `shuffled` (N), or fewer if each class can then keep one only."""
    n = len(labels)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]  # class by class, in random order within each
    taken = (torch.arange(n + 1) * number // n).diff() > 0  # of every run of examples, the same share
    counts = labels.bincount()
    left = counts - labels[by_class[taken]].bincount(minlength=len(counts))
    starts = counts.cumsum(0) - counts
    for label in ((left == 0) & (counts > 0)).nonzero().squeeze(1).tolist():
        taken[starts[label]] = False  # each class keeps one to train on; another class gives one more
        left[label] += 1
        donor = int(left.argmax())
        if left[donor] > 1:
            of_donor = taken[starts[donor] : starts[donor] + counts[donor]]  # a view
            of_donor[int((~of_donor).nonzero()[0])] = True
            left[donor] -= 1
    return by_class[taken]


def warnings_about(
    train_labels: Tensor, val_labels: Tensor | None, fraction: float, classes: Sequence[str]
) -> list[str]:
    """What a user should know about a split. `val_labels` is None if the test split validates."""
    warnings = []
    trained = train_labels.bincount(minlength=len(classes))
    if untrained := _names((trained == 0).nonzero(), classes):
        warnings.append(f"no image to train on for {untrained}: the model cannot learn it")
    if val_labels is None:
        return warnings
    total = len(train_labels) + len(val_labels)
    if len(val_labels) < round(total * fraction):
        warnings.append(
            f"{len(val_labels)} images are held out for validation instead of {round(total * fraction)}, so that each "
            "class keeps an image to train on"
        )
    validated = val_labels.bincount(minlength=len(classes))
    if unseen := _names(((validated == 0) & (trained > 0)).nonzero(), classes):
        warnings.append(
            f"no image is held out for validation of {unseen}, since the training split has too few of them: "
            "val_loss and val_accuracy do not cover it"
        )
    return warnings


def _names(indices: Tensor, classes: Sequence[str]) -> str:
    """The names of the classes at these indices, as part of a sentence; empty if there are none."""
    names = [f"'{classes[i]}'" for i in indices.flatten().tolist()]
    more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    return f"the class{'es' if len(names) > 1 else ''} {', '.join(names[:NAMED_CLASSES])}{more}" if names else ""
