"""Imported once, by the server that trainers are forked from: what each of them would else do for its first time.

To import this is to do it, since the server runs nothing of ours but imports. It starts no thread.
"""

from __future__ import annotations

import structlog

import worker.trainer.process  # noqa: F401  (torch, matplotlib, scikit-learn)
from shared.jobs import curves

SOME_CURVE: curves.Series = {
    name: [(step, step, step / 10) for step in range(1, 9)]
    for name in ("batch_loss", "train_loss", "val_loss", "val_accuracy")
}

try:
    curves.draw(SOME_CURVE, "some curve", ("png", "svg"))  # fonts, ticks and paper: half of a picture's time
except Exception as error:  # a server that cannot draw can still train
    structlog.get_logger().warning("no picture could be drawn in advance", error=str(error))
