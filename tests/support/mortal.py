"""A trainer in its own process that kills itself with SIGKILL at a given step; its events come over a pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shared.events import CheckpointSaved, Event, Metric
from shared.spec.job_spec import JobSpec

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["worker.trainer.process"])
SECONDS = 120.0


@dataclass
class Life:
    """What one process reported before it ended, and how it ended."""

    exitcode: int | None = None
    events: list[Event] = field(default_factory=list)
    weights_sha256: str | None = None

    @property
    def points(self) -> list[Metric]:
        return [event for event in self.events if isinstance(event, Metric)]


def live(spec: JobSpec, folder: Path, die_at: int | None = None, reported_step: int = -1) -> Life:
    """Run one attempt from the newest checkpoint in `folder` to the end, or to SIGKILL after step `die_at`."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_train, args=(theirs, spec.to_json(), str(folder), die_at, reported_step))
    process.start()
    theirs.close()
    life = Life()
    try:
        while ours.poll(SECONDS):
            received = ours.recv()
            if isinstance(received, str):
                life.weights_sha256 = received
            else:
                life.events.append(received)
    except EOFError:
        pass  # the pipe ends with its process
    process.join(SECONDS)
    life.exitcode = process.exitcode
    return life


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; one that is being written has another name."""
    found = sorted((folder / "checkpoints").glob("*.pt"), key=lambda path: int(path.stem))
    return found[-1] if found else None


def _train(pipe: Connection, spec_json: dict[str, Any], folder: str, die_at: int | None, reported_step: int) -> None:
    import torch

    from worker.trainer import device
    from worker.trainer.data import datasets
    from worker.trainer.loop import train
    from worker.trainer.results import weights_sha256
    from worker.trainer.run import Run

    spec, cpu = JobSpec.model_validate(spec_json), torch.device("cpu")
    device.set_up(spec.seed, cpu, 1, spec.deterministic)
    resume = newest(Path(folder))
    steps = [int(resume.stem) if resume else 0]

    def stop() -> bool:  # the loop asks after each step
        steps[0] += 1
        if steps[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    def report(event: Event) -> None:
        if not isinstance(event, CheckpointSaved):
            pipe.send(event)

    prepared = datasets.prepare(spec, Path("nowhere"), False, cpu)
    outcome = train(spec, prepared, report, Run(Path(folder), resume, reported_step, stop))
    pipe.send(weights_sha256(outcome.state.model))
