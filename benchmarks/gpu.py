"""Training on one CUDA device: images per second, time to 97 and 99 % test accuracy, distance from the device's limits.

    GRADQ_DATA_DIR=… python -m benchmarks.gpu

Trains MNIST with mlp and cnn, with manual gradients and autograd, in fp32 and (autograd) bf16, by the trainer without
the service. Seconds are measured by CUDA events. The device's limits are measured too: a large copy for the bandwidth,
a large matrix product for the arithmetic. A model's floating point operations come from shared/spec/estimate.py; its
bytes are those of the images, read once, and of weights, gradients and optimizer state.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.support import parser, publish, say
from shared.config import Settings
from shared.datasets.catalog import DATASETS
from shared.events import Event, Log, Metric
from shared.spec.estimate import FLOAT_BYTES, TRAIN_PASSES, network_cost
from shared.spec.job_spec import JobSpec
from worker.trainer import device
from worker.trainer.data import datasets
from worker.trainer.loop import train
from worker.trainer.run import Run

CLAIM = "MNIST's cnn reaches 99 % test accuracy; no figure is claimed for the speed"
CNN = {"type": "cnn", "channels": [32, 64], "hidden": [128], "dropout": 0.25}
CASES: dict[str, dict[str, Any]] = {
    "mlp, manual": {"architecture": "mlp", "gradients": "manual"},
    "mlp, autograd": {"architecture": "mlp"},
    "cnn, manual": {"architecture": CNN, "gradients": "manual"},
    "cnn, autograd": {"architecture": CNN},
    "cnn, autograd, bf16": {"architecture": CNN, "precision": "bf16"},
    "cnn, autograd, bf16, not deterministic": {"architecture": CNN, "precision": "bf16", "deterministic": False},
}
COMMON = {"dataset": "mnist", "batch_size": 128, "validation": "test", "schedule": "onecycle", "device": "cuda"}
GOALS = (0.97, 0.99)


def timed(work: Callable[[], Any], times: int) -> float:
    """Seconds of one call on the device, the mean over `times` of them."""
    work()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(times):
        work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000 / times


def limits() -> dict[str, float]:
    """Bytes per second of a copy (read and written), operations per second of a matrix product by precision."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / timed(lambda: target.copy_(source), 20)
    n, found = 8192, {"bytes": copied}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(n, n, device="cuda").to(kind)
        found[name] = 2 * n**3 / timed(lambda a=a: a @ a, 10)
    return found


def case(fields: dict[str, Any], epochs: int, lr: float, settings: Settings, most: dict[str, float]) -> dict[str, Any]:
    """Train one of CASES; `most` holds the limits. Returns the figures of the case."""
    spec = JobSpec.parse({**COMMON, **fields, "epochs": epochs, "lr": lr, "seed": 7})
    where = device.choose("cuda")
    device.set_up(spec.seed, where, 1, spec.deterministic)
    prepared = datasets.prepare(spec, settings.datasets_dir, settings.download, where)
    points: list[Metric] = []
    said: list[str] = []
    reached: dict[float, float] = {}
    began = torch.cuda.Event(enable_timing=True)

    def report(event: Event) -> None:
        if isinstance(event, Metric) and event.series == "epoch":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
            now.synchronize()
            points.append(event)
            for goal in GOALS:
                if event.values["val_accuracy"] >= goal:
                    reached.setdefault(goal, began.elapsed_time(now) / 1000)
        elif isinstance(event, Log) and event.message.startswith("steps "):
            said.append(event.message)

    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
        wall = time.perf_counter()
        began.record()
        train(spec, prepared, report, Run(Path(folder)))
        torch.cuda.synchronize()
        wall = time.perf_counter() - wall

    net = network_cost(spec.architecture, prepared.info)
    speed = max(p.values["examples_per_second"] for p in points)
    state = 3 if spec.optimizer.type == "sgd" else 7  # read weight and gradient, write weight; adam's moments too
    pixels = prepared.info.shape[0] * prepared.info.shape[1] * prepared.info.shape[2]
    bytes_an_image = FLOAT_BYTES * (pixels + net.parameters * (2 + state) / spec.batch_size)
    arithmetic, bandwidth = most[spec.precision] / (TRAIN_PASSES * net.flops), most["bytes"] / bytes_an_image
    return {
        "images_per_second": round(speed),
        "seconds_in_all": round(wall, 2),
        "seconds_to": {f"{goal:.0%}": round(reached[goal], 2) if goal in reached else None for goal in GOALS},
        "test_accuracy": points[-1].values["val_accuracy"],
        "share_of_arithmetic_limit": round(speed / arithmetic, 4),
        "share_of_bandwidth_limit": round(speed / bandwidth, 4),
        "steps": said,
    }


def main() -> None:
    options = parser(__doc__, "gpu")
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--lr", type=float, default=0.1)
    asked = options.parse_args()
    settings = Settings.from_env()
    if not torch.cuda.is_available():
        publish("gpu", CLAIM, {"skipped": {"all": "there is no CUDA device"}}, save=False)
        return
    if DATASETS["mnist"].missing_files(settings.datasets_dir):
        publish("gpu", CLAIM, {"skipped": {"all": "MNIST is not here"}}, save=False)
        return
    most, cases = limits(), {}
    for name, fields in CASES.items():
        cases[name] = case(fields, asked.epochs, asked.lr, settings, most)
        say(f"{name}: {cases[name]}")
    figures = {
        "gpu": torch.cuda.get_device_name(0),
        "limits": {name: float(f"{value:.3g}") for name, value in most.items()},
        "cases": cases,
        "claim_holds": max(of["test_accuracy"] for name, of in cases.items() if name.startswith("cnn")) >= 0.99,
    }
    publish("gpu", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
