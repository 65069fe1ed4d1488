"""Early stopping, read off the curve so far: a resumed run decides as an unbroken one, with nothing more to keep."""

from __future__ import annotations

from shared.spec.job_spec import EarlyStopping
from worker.trainer.history import History


def has_stalled(rule: EarlyStopping | None, history: History) -> bool:
    """Whether the last `patience_epochs` epochs brought no value better than the best before by more than min_delta."""
    if rule is None:
        return False
    sign = -1.0 if rule.metric == "val_accuracy" else 1.0  # of an accuracy, more is better
    best, since = float("inf"), 0
    for value in history.column("epoch", rule.metric):
        if sign * value < best - rule.min_delta:
            best, since = sign * value, 0
        else:
            since += 1
    return since >= rule.patience_epochs


def why_stopped(rule: EarlyStopping | None) -> str:
    assert rule is not None, "nothing else ends a run early"
    least = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    return f"{rule.metric} has not improved{least} for {rule.patience_epochs} epochs"
