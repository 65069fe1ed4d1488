"""Early stopping, read off the curve so far: a resumed run decides as an unbroken one, with nothing more to keep."""

from __future__ import annotations

from shared.spec.job_spec import EarlyStopping
from worker.trainer.history import History


def has_stalled(wish: EarlyStopping | None, history: History) -> bool:
    """Whether the last `patience_epochs` epochs brought no value better than the best before by more than min_delta."""
    if wish is None:
        return False
    sign = -1.0 if wish.metric == "val_accuracy" else 1.0  # of an accuracy, more is better
    best, since = float("inf"), 0
    for value in history.column("epoch", wish.metric):
        if sign * value < best - wish.min_delta:
            best, since = sign * value, 0
        else:
            since += 1
    return since >= wish.patience_epochs


def why_stopped(wish: EarlyStopping | None) -> str:
    assert wish is not None, "nothing else ends a run early"
    least = f" by more than {wish.min_delta:g}" if wish.min_delta else ""
    return f"{wish.metric} has not improved{least} for {wish.patience_epochs} epochs"
