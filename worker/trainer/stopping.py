"""Early stopping, computed from the curve alone: a resumed run decides as an uninterrupted one."""

from __future__ import annotations

from shared.spec.job_spec import EarlyStopping
from worker.trainer.history import History


def has_stalled(rule: EarlyStopping | None, history: History) -> bool:
    """Whether the metric has not improved on its best value by more than `min_delta` for `patience_epochs` epochs."""
    if rule is None:
        return False
    sign = -1.0 if rule.metric == "val_accuracy" else 1.0  # a higher accuracy is better, a lower loss
    best, since = float("inf"), 0
    for value in history.column("epoch", rule.metric):
        if sign * value < best - rule.min_delta:
            best, since = sign * value, 0
        else:
            since += 1
    return since >= rule.patience_epochs


def why_stopped(rule: EarlyStopping | None) -> str:
    """The reason of an early stop, for the log."""
    assert rule is not None, "only early stopping ends a run before its last epoch"
    least = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    return f"{rule.metric} has not improved{least} for {rule.patience_epochs} epochs"
