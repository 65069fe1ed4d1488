"""python -m worker.trainer spec.json: train without the service. Prints the curve and writes the files to a folder."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from shared.datasets.catalog import DATASETS
from shared.errors import InvalidSpec, TrainingError
from shared.events import Event, Log, Metric
from shared.spec.job_spec import JobSpec
from worker.trainer.data import memmap
from worker.trainer.job import run_job
from worker.trainer.run import Run


def show(event: Event) -> None:
    """Print a point of the curve (batch losses are left out) or a log line."""
    if isinstance(event, Metric) and event.series != "batch":
        print(f"epoch {event.epoch}", *(f"{name} {value:.6g}" for name, value in event.values.items()))
    elif isinstance(event, Log):
        print(event.message)


def main() -> int:
    """Return the exit code: 0 after a finished training, 1 if the training failed, 2 for an invalid spec."""
    parser = argparse.ArgumentParser(prog="python -m worker.trainer", description=__doc__)
    parser.add_argument("spec", type=Path, help="a job spec as JSON")
    parser.add_argument("--out", type=Path, default=Path("run"), help="where checkpoints and artifacts go")
    parser.add_argument("--data", type=Path, default=Path("data"), help="datasets in torchvision's layout")
    parser.add_argument("--dataset", type=Path, help="the folder of an uploaded dataset, for a spec that names one")
    parser.add_argument("--resume", type=Path, help="a checkpoint to resume from")
    parser.add_argument("--init-from", type=Path, help="model.safetensors of the job that the spec's init_from names")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--download", action="store_true", help="download datasets that are missing")
    options = parser.parse_args()
    try:
        body = json.loads(options.spec.read_text())
        info = memmap.read_info(options.dataset) if options.dataset else None
        spec = JobSpec.parse(body, lambda name: info if name.startswith("ds_") else DATASETS.get(name))
        if info is not None and spec.dataset in DATASETS:
            parser.error(f"--dataset is for a spec that names an uploaded dataset; this one names {spec.dataset}")
        if (spec.init_from is None) != (options.init_from is None) and options.resume is None:
            parser.error("--init-from FILE and the spec's init_from belong together")
        run = Run(options.out, resume=options.resume, init_from=options.init_from)
        where = {"data_dir": options.data, "download": options.download, "threads": options.threads}
        result = run_job(spec, run, show, **where, uploaded=options.dataset)
    except InvalidSpec as error:
        print(*(f"{e.pointer}: {e.detail}" for e in error.errors), sep="\n", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return 1
    accuracy = result["test_accuracy"]
    print(
        f"test accuracy {accuracy:.4f} after {result['training_seconds']:.2f} s; files in {options.out / 'artifacts'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
