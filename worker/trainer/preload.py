"""Imported once by the fork server: warms up what each trainer would otherwise pay for at its first use.

The work is done at import, since the fork server only imports modules. It must not start a thread.
"""

from __future__ import annotations

import atexit
import os
import signal

import structlog

import worker.trainer.process  # noqa: F401  (torch, matplotlib)
from shared.jobs import curves
from shared.log_stream import hold_streams

SOME_CURVE: curves.Series = {
    name: [(step, step, step / 10) for step in range(1, 9)]
    for name in ("batch_loss", "train_loss", "val_loss", "val_accuracy")
}

hold_streams()  # the trainers inherit them
# a terminal that is closed sends it to all processes that it started; the worker alone acts on it
signal.signal(signal.SIGHUP, signal.SIG_IGN)

try:
    curves.draw(
        SOME_CURVE, "some curve", ("png", "svg")
    )  # loads fonts, ticks and canvas: half the time of a first picture
except Exception as error:  # a trainer that cannot draw can still train
    structlog.get_logger().warning("could not draw a picture in advance", error=str(error))


def end_at_once(server: int = os.getpid()) -> None:
    """End the fork server without unloading what it has imported, which takes a second and has no effect.

    Its forked processes call their exit functions too, and must end with their own codes.
    """
    if os.getpid() == server:
        os._exit(0)


atexit.register(end_at_once)
