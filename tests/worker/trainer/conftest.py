"""Small trainings on digits: one thread, the CPU, a second or less."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.events import CheckpointSaved, Event, Metric
from shared.spec.job_spec import JobSpec
from worker.trainer import checkpoint, device, seeds
from worker.trainer.__main__ import main
from worker.trainer.data import datasets
from worker.trainer.data.datasets import Data
from worker.trainer.loop import train
from worker.trainer.run import Outcome, Run, StopRequested

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, since sums are split by thread; resets the deterministic mode that a run has set."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@dataclass
class Training:
    """A job as its trainer sees it: one spec, its attempts, the events of the newest one."""

    spec: JobSpec
    folder: Path
    events: list[Event] = field(default_factory=list)  # of the newest attempt
    streams: int = seeds.STREAMS  # of an attempt that does not resume
    data: Data = field(init=False)

    def prepare(self, resume: Path | None = None) -> None:
        streams = self.streams if resume is None else checkpoint.streams_of(resume)
        device.set_up(self.spec.seed, CPU, torch.get_num_threads(), self.spec.deterministic, streams)
        self.data = datasets.prepare(self.spec, Path("nowhere"), False, CPU, streams=streams)

    def run(self, resume: Path | None = None, reported_step: int = -1, stop_at: int | None = None) -> Outcome:
        """One attempt, data included. `stop_at`: the step during which a stop is requested."""
        self.prepare(resume)
        self.events, steps = [], iter(range((stop_at or 0) + 1_000_000))
        resumed_at = int(resume.stem) if resume else 0
        asked = {"stop": False}

        def stop() -> bool:
            if not asked["stop"]:  # the loop calls it once per step, and again after the checkpoint
                asked["stop"] = stop_at is not None and resumed_at + next(steps) + 1 >= stop_at
            return asked["stop"]

        return train(self.spec, self.data, self.events.append, Run(self.folder, resume, reported_step, stop))

    def stopped(self, at: int, resume: Path | None = None, reported_step: int = -1) -> Path:
        """One attempt that is stopped at a step; returns the path of its checkpoint."""
        with pytest.raises(StopRequested) as stop:
            self.run(resume, reported_step, stop_at=at)
        assert stop.value.step == at
        return self.checkpoints()[-1]

    def checkpoints(self) -> list[Path]:
        return [Path(event.path) for event in self.events if isinstance(event, CheckpointSaved)]

    def points(self) -> list[Metric]:
        return [event for event in self.events if isinstance(event, Metric)]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """command_line("spec.json", "--out", "run"): the exit code of `python -m worker.trainer`, run in this process."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["worker.trainer", *map(str, arguments)])
        try:
            return main()
        except SystemExit as stop:
            return int(stop.code or 0)

    return run


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., Training]:
    """training(epochs=2, …): a job on digits with seed 7."""
    made: list[Training] = []

    def make(**fields: Any) -> Training:
        spec = JobSpec.parse({"seed": 7, "epochs": 2, **fields})
        made.append(Training(spec, tmp_path / f"training-{len(made)}"))
        return made[-1]

    return make
