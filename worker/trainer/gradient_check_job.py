"""The gradient check as a job: checks a network on batches of real data; reports progress, table and result."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from shared.events import Log, Progress, Report
from shared.spec.job_spec import GradientCheckSpec
from worker.folder_cache import FolderCache
from worker.trainer import device, seeds
from worker.trainer.data import datasets
from worker.trainer.gradients.gradient_check import Batch, Sampling, gradient_check, require_passed
from worker.trainer.gradients.table import Table
from worker.trainer.nets.architectures import build_model, count_parameters, initialize
from worker.trainer.nets.losses import build_loss
from worker.trainer.run import Run, StopRequested

REPORT_SECONDS = 0.25


def run_check(
    spec: GradientCheckSpec,
    run: Run,
    report: Report,
    *,
    data_dir: Path,
    download: bool,
    threads: int,
    uploaded: Path | None = None,
    cache: FolderCache | None = None,
) -> dict[str, Any]:
    """Check a network on batches of real data, write `gradient_check.json`, passed or not, and return the result.

    `uploaded`: the folder of a dataset that is not built in; `cache`: this host's. Raises GradientCheckFailed,
    Diverged, DataError, or StopRequested between two batches or finite differences.
    """
    where = device.choose(spec.device)
    device.set_up(spec.seed, where, threads)
    prepared = datasets.prepare(spec, data_dir, download, where, uploaded, check_stop=run.check_stop, cache=cache)
    model = build_model(spec.architecture, prepared.info.shape, len(prepared.info.classes))
    initialize(model, spec.init, seeds.generator(spec.seed, "init"))
    model.to(where)

    batches = islice((batch for epoch in count(1) for batch in prepared.train.epoch(epoch)), spec.batches)
    sampling = Sampling(spec.samples, seeds.generator(spec.seed, "samples")) if spec.finite_differences else None
    progress = _ProgressReporter(spec, len(list(model.parameters())), run, report)
    report(Log(message=f"checking {count_parameters(model)} parameters on {spec.batches} batches"))
    table = gradient_check(
        model, build_loss(spec.loss), progress.counted(batches), sampling, progress.parameter_done, progress.check_stop
    )
    progress.send()

    folder = run.folder / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gradient_check.json").write_text(json.dumps(table, indent=2, allow_nan=False) + "\n")
    require_passed(table)
    report(Log(message=_summary(table), data={"gradient_check": table}))
    return {
        "passed": True,
        "parameters": count_parameters(model),
        "gradient_check": table,
        "device": str(where),
        "environment": device.environment(where),
    }


def _summary(table: Table) -> str:
    text = f"manual gradients equal autograd's: largest relative error {table['max_relative_error']:.2g}"
    if "finite_differences" in table:
        slopes = table["finite_differences"]
        text += f"; and {slopes['checked']} finite differences: {slopes['max_relative_error']:.2g}"
    return text


class _ProgressReporter:
    """Reports the progress of the check, at most four times per second; raises StopRequested if a stop is requested."""

    def __init__(self, spec: GradientCheckSpec, parameters: int, run: Run, report: Report) -> None:
        self.spec, self.run, self.report = spec, run, report
        self.total = spec.batches * (parameters if spec.finite_differences else 1)
        self.started = self.reported = time.monotonic()
        self.batch = self.done = 0

    def counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, counted; without finite differences each is one step of the progress."""
        for batch in batches:
            self.batch += 1
            yield batch
            if not self.spec.finite_differences:
                self._step()

    def parameter_done(self) -> None:
        self._step()

    def check_stop(self) -> None:
        if self.run.stop_requested():
            raise StopRequested(self.done)

    def _step(self) -> None:
        self.done += 1
        self.check_stop()
        if time.monotonic() - self.reported > REPORT_SECONDS:
            self.send()

    def send(self) -> None:
        self.reported = time.monotonic()
        rate = self.batch * self.spec.batch_size / max(self.reported - self.started, 1e-9)
        steps = {"step": self.done, "total_steps": self.total}
        self.report(Progress(epoch=self.batch, epochs=self.spec.batches, **steps, examples_per_second=rate))
