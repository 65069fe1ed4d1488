"""Imported once by the fork server: warms up what each trainer would otherwise pay for at its first use.

The work is done at import, since the fork server only imports modules. It must not start a thread.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal

from shared import lean_imports
from shared.log_stream import hold_streams
from worker.trainer import program_pages


def import_all() -> None:
    """torch, matplotlib and what else a job imports; and draws a curve, which loads fonts, ticks and canvas: half the
    time of a first picture."""
    lean_imports.begin()
    importlib.import_module("worker.trainer.process")
    from shared.jobs import curves

    names = ("batch_loss", "train_loss", "val_loss", "val_accuracy")
    some: curves.Series = {name: [(step, step, step / 10) for step in range(1, 9)] for name in names}
    try:
        curves.draw(some, "some curve", ("png", "svg"))
    except Exception as error:  # a trainer that cannot draw can still train
        import structlog

        structlog.get_logger().warning("could not draw a picture in advance", error=str(error))
    lean_imports.end()


def end_at_once(server: int = os.getpid()) -> None:
    """End the fork server without unloading what it has imported, which takes a second and has no effect.

    Its forked processes call their exit functions too, and must end with their own codes.
    """
    if os.getpid() == server:
        os._exit(0)


hold_streams()  # the trainers inherit them
# a terminal that is closed sends it to all processes that it started; the worker alone acts on it
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import_all()
program_pages.release()
atexit.register(end_at_once)
