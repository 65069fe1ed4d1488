"""The reference article's experiments on real MNIST, each from its preset, compared with the article's figures.

    GRADQ_DATA_DIR=… python -m benchmarks.article

A preset that starts from another one's weights does so here. The article averages accuracy over batches, gradq over
images, which differs by less than 0.0005; the runs that are stuck depend on their seed, as they do in the article. The
table is printed to stderr, the figures as one line of JSON to stdout.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.support import parser, publish, say
from shared.config import Settings
from shared.datasets.catalog import DATASETS
from shared.events import Event, Metric
from shared.spec.job_spec import JobSpec
from shared.spec.presets import PRESETS, Preset
from worker.trainer.job import run_job
from worker.trainer.run import Run

CLAIM = (
    "two-layer ends within 0.9674 ± 0.006 with epoch losses within 8 % of the article's from the second on; "
    "manual-linear stays between 0.75 and 0.93 with a best of at least 0.88; autograd-linear stays far below it"
)
NO_JOB = "job_" + "0" * 32  # the spec of a preset with init_from names a job; here the file itself is passed


@dataclass(frozen=True)
class Experiment:
    preset: Preset
    val_accuracy: list[float]  # per epoch
    train_loss: list[float]
    weights: Path


def run(preset: Preset, seed: int, folder: Path, origin: Path | None, settings: Settings, threads: int) -> Experiment:
    body: dict[str, Any] = {"preset": preset.name, "seed": seed, "device": "cpu"}
    if origin is not None:
        body["init_from"] = {"job": NO_JOB}
    points: list[Metric] = []

    def report(event: Event) -> None:
        if isinstance(event, Metric) and event.series == "epoch":
            points.append(event)

    where = {"data_dir": settings.datasets_dir, "download": settings.download, "threads": threads}
    run_job(JobSpec.parse(body), Run(folder, init_from=origin), report, **where)
    accuracy, loss = ([p.values[name] for p in points] for name in ("val_accuracy", "train_loss"))
    say(f"{preset.name}: {len(points)} epochs, accuracy {accuracy[-1]:.4f}, loss {loss[-1]:.4g}")
    return Experiment(preset, accuracy, loss, folder / "artifacts" / "model.safetensors")


def run_all(seed: int, folder: Path, settings: Settings, threads: int) -> dict[str, Experiment]:
    done: dict[str, Experiment] = {}
    for preset in PRESETS.values():  # a preset comes after the one whose weights it starts from
        origin = done[preset.continues].weights if preset.continues else None
        done[preset.name] = run(preset, seed, folder / preset.name, origin, settings, threads)
    return done


# --- compared with the article ----------------------------------------------------------------------------------------


def printed(preset: Preset) -> str:
    """The article's validation accuracy in one cell."""
    article = preset.article
    if "val_accuracy" in article:
        return spread(article["val_accuracy"])
    first, last = article.get("first_val_accuracy"), article["last_val_accuracy"]
    return f"{last:.4f}" if first is None else f"{first:.4f} … {last:.4f}"


def spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{values[0]:.4f} … {values[-1]:.4f} (best {max(values):.4f})"


def loss_differences(experiment: Experiment) -> list[float]:
    """Relative to the article's, per epoch; empty if the article has none."""
    article = experiment.preset.article.get("train_loss", [])
    return [abs(ours / theirs - 1) for ours, theirs in zip(experiment.train_loss, article, strict=False)]


def table(experiments: dict[str, Experiment]) -> Table:
    made = Table("preset", "epochs", "article's accuracy", "ours", "loss off by at most, from epoch 2 on", expand=False)
    for name, experiment in experiments.items():
        differences = loss_differences(experiment)[1:]
        row = (name, str(len(experiment.val_accuracy)), printed(experiment.preset), spread(experiment.val_accuracy))
        made.add_row(*row, f"{max(differences):.1%}" if differences else "")
    return made


def verdict(experiments: dict[str, Experiment]) -> dict[str, bool]:
    two_layer, stuck = experiments["article/two-layer"], experiments["article/autograd-linear"]
    manual = [
        *experiments["article/manual-linear"].val_accuracy,
        *experiments["article/manual-linear-continued"].val_accuracy,
    ]
    return {
        "two_layer_accuracy": abs(two_layer.val_accuracy[-1] - two_layer.preset.article["last_val_accuracy"]) <= 0.006,
        "two_layer_losses": max(loss_differences(two_layer)[1:]) <= 0.08,
        "manual_linear_level": all(0.75 <= accuracy <= 0.93 for accuracy in manual),
        "manual_linear_best": max(manual) >= 0.88,
        "autograd_linear_stuck": max(stuck.val_accuracy) < min(manual) - 0.1,
    }


def main() -> None:
    options = parser(__doc__, "article")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = options.parse_args()
    settings = Settings.from_env()
    if missing := DATASETS["mnist"].missing_files(settings.datasets_dir):
        say(f"{missing[0].name} is not in {missing[0].parent}; set GRADQ_DATA_DIR")
        publish("article", CLAIM, {"skipped": {"all": "MNIST is not here"}}, save=False)
        return
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
        experiments = run_all(asked.seed, Path(folder), settings, asked.threads)
    Console(file=sys.stderr, width=170).print(table(experiments))
    figures = {
        "seed": asked.seed,
        "presets": {
            name: {
                "article": experiment.preset.article,
                "val_accuracy": [round(v, 4) for v in experiment.val_accuracy],
                "train_loss": [round(v, 4) for v in experiment.train_loss],
            }
            for name, experiment in experiments.items()
        },
        "claim_holds": verdict(experiments),
    }
    publish("article", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
