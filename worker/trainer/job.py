"""A whole run: data, training, files. Used by a job's process and by `python -m worker.trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shared.events import UNDRAWN, Log, Report
from shared.pictures import files
from shared.spec.estimate import TRAIN_PASSES, network_cost
from shared.spec.job_spec import JobSpec
from worker.folder_cache import FolderCache
from worker.trainer import checkpoint, device, seeds
from worker.trainer.data import datasets
from worker.trainer.exports import artifacts
from worker.trainer.loop import train
from worker.trainer.results import result_of
from worker.trainer.run import Run


def run_job(
    spec: JobSpec,
    run: Run,
    report: Report,
    *,
    data_dir: Path,
    download: bool,
    threads: int,
    uploaded: Path | None = None,
    cache: FolderCache | None = None,
) -> dict[str, Any]:
    """Train, write the artifacts into `run.folder`/artifacts and return the result (see `result_of`).

    The pictures of a supervised run are drawn later, by the worker or the API.

    `threads` is the most that the run may use, `uploaded` the folder of a dataset that is not built in, `cache` this
    host's, if it has one.
    Raises TrainingError (DataError, Diverged, GradientCheckFailed, …), or StopRequested once the checkpoint is written.
    """
    where = device.choose(spec.device)
    streams = seeds.STREAMS if run.resume is None else checkpoint.streams_of(run.resume)
    device.set_up(spec.seed, where, threads, spec.deterministic, streams)
    prepared = datasets.prepare(spec, data_dir, download, where, uploaded, streams, run.check_stop, cache)
    if run.resume is None:
        for warning in prepared.warnings:
            report(Log(message=warning, level="warning"))
    flops = TRAIN_PASSES * spec.batch_size * network_cost(spec.architecture, prepared.info).flops
    torch.set_num_threads(device.threads_for(flops, threads))
    outcome = train(spec, prepared, report, run)
    result = result_of(spec, prepared, outcome)
    folder = run.folder / "artifacts"
    artifacts.write_all(folder, spec, prepared, outcome, result, report)
    if not run.supervised:
        files.draw(folder / UNDRAWN, folder)
        (folder / UNDRAWN).unlink()
    return result
