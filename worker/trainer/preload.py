"""Imported once by the fork server: warms up what each trainer would otherwise pay for at its first use.

The work is done at import, since the fork server only imports modules. It must not start a thread.
"""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
from pathlib import Path

import structlog
import torch

import worker.trainer.process  # noqa: F401  (torch, matplotlib)
from shared.jobs import curves
from shared.log_stream import hold_streams
from shared.spec.job_spec import JobSpec
from worker.trainer.job import run_job
from worker.trainer.run import Run

SOME_CURVE: curves.Series = {
    name: [(step, step, step / 10) for step in range(1, 9)]
    for name in ("batch_loss", "train_loss", "val_loss", "val_accuracy")
}
SOME_JOB = {"dataset": "digits", "gradients": "manual", "epochs": 1, "device": "cpu"}

hold_streams()  # the trainers inherit them
# a terminal that is closed sends it to all processes that it started; the worker alone acts on it
signal.signal(signal.SIGHUP, signal.SIG_IGN)


def train_once() -> None:
    """Train a small job on one thread: whatever a library loads, compiles or allocates at its first use takes a short
    job as long as all else, 30 ms, and each trainer would have 15 MB of it for itself."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gradq-warm-up-") as folder:
        run = Run(Path(folder), supervised=True)
        run_job(JobSpec.parse(SOME_JOB), run, lambda event: None, data_dir=Path(folder), download=False, threads=1)


try:
    train_once()
    curves.draw(SOME_CURVE, "some curve", ("png", "svg"))  # loads fonts, ticks and canvas
except Exception as error:  # a trainer takes longer then, and tells what is wrong
    structlog.get_logger().warning("could not train or draw in advance", error=str(error))


def end_at_once(server: int = os.getpid()) -> None:
    """End the fork server without unloading what it has imported, which takes a second and has no effect.

    Its forked processes call their exit functions too, and must end with their own codes.
    """
    if os.getpid() == server:
        os._exit(0)


atexit.register(end_at_once)
