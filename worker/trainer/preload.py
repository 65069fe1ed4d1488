"""Imported once by the fork server: warms up what each trainer would otherwise pay for at its first use.

The work is done at import, since the fork server only imports modules. It must not start a thread.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import tempfile
from pathlib import Path

from shared import lean_imports
from shared.log_stream import hold_streams
from worker.trainer import program_pages

# with enough steps that they are repeated from a tape
SOME_JOB = {"dataset": "digits", "gradients": "manual", "batch_size": 8, "epochs": 1, "device": "cpu"}


def warm_up() -> None:
    """Import torch, matplotlib and what else a job imports; train a small job, and draw a curve."""
    lean_imports.begin()
    importlib.import_module("worker.trainer.process")
    try:
        train()
        draw()
    except Exception as error:  # a trainer takes longer then, and reports what is wrong
        import structlog

        structlog.get_logger().warning("could not train or draw in advance", error=str(error))
    lean_imports.end()


def train() -> None:
    """On one thread: what a library loads, compiles or allocates at its first use takes a short job as long as all
    else, 30 ms, and each trainer would have 15 MB of it for itself."""
    import torch

    from shared.spec.job_spec import JobSpec
    from worker.trainer.job import run_job
    from worker.trainer.run import Run

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gradq-warm-up-") as folder:
        run = Run(Path(folder), supervised=True)
        run_job(JobSpec.parse(SOME_JOB), run, lambda event: None, data_dir=Path(folder), download=False, threads=1)


def draw() -> None:
    """Load fonts, ticks and canvas: half the time of a first picture."""
    from shared.jobs import curves

    names = ("batch_loss", "train_loss", "val_loss", "val_accuracy")
    some: curves.Series = {name: [(step, step, step / 10) for step in range(1, 9)] for name in names}
    curves.draw(some, "some curve", ("png", "svg"))


def end_at_once(server: int = os.getpid()) -> None:
    """End the fork server without unloading what it has imported, which takes a second and has no effect.

    Its forked processes call their exit functions too, and must end with their own codes.
    """
    if os.getpid() == server:
        os._exit(0)


hold_streams()  # the trainers inherit them
# a terminal that is closed sends it to all processes that it started; the worker alone acts on it
signal.signal(signal.SIGHUP, signal.SIG_IGN)
warm_up()
program_pages.release()
atexit.register(end_at_once)
