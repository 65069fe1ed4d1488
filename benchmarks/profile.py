"""The time of each kernel of a training step of MNIST's mlp (784-30-10, batches of 64).

    GRADQ_DATA_DIR=… python -m benchmarks.profile [--threads 1] [--gradients manual]

The step is recorded by worker/trainer/step/tape.py, as in a job; each of its operations is then called alone, many
times, on the memory that it uses in the step. `gather` copies a batch from the images, `step` is the whole step,
including the gather.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.epoch import spec_of
from benchmarks.support import parser, publish, say
from shared.config import Settings
from shared.datasets.catalog import DATASETS
from worker.trainer import device
from worker.trainer.data import datasets
from worker.trainer.nets.losses import build_loss
from worker.trainer.step.state import State
from worker.trainer.step.step import Step
from worker.trainer.step.tape import Tape

CLAIM = "none; microseconds of each kernel of a step"
CALLS, ROUNDS = 1000, 5
LARGE = 1e6  # multiplications: the two products with the images


def best(work: Callable[[], Any], calls: int) -> float:
    """Microseconds of one call, in the fastest of `ROUNDS` rounds, which other processes disturbed least."""
    found = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        found = min(found, time.perf_counter() - started)
    return found / calls * 1e6


def described(name: str, operation: Any) -> tuple[str, float]:
    """Name and shapes of a recorded call; and the multiplications of a matrix product, else 0."""
    tensors = [a for a in operation.args if isinstance(a, torch.Tensor)]
    shapes = " ".join("x".join(map(str, t.shape)) or "()" for t in tensors)
    product = 0.0
    if name in ("mm", "addmm"):
        left, right = tensors[-2:]
        product = float(left.shape[0] * left.shape[1] * right.shape[1])
    return f"{name} {shapes}".strip(), product


def main() -> None:
    options = parser(__doc__, "profile")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--gradients", choices=("manual", "autograd"), default="manual")
    asked = options.parse_args()
    settings = Settings.from_env()
    if DATASETS["mnist"].missing_files(settings.datasets_dir):
        publish("profile", CLAIM, {"skipped": {"all": "MNIST is not here"}}, save=False)
        return
    spec, cpu = spec_of(asked.gradients, seed=1), torch.device("cpu")
    device.set_up(spec.seed, cpu, asked.threads, spec.deterministic)
    prepared = datasets.prepare(spec, settings.datasets_dir, settings.download, cpu)
    step = Step(spec, State(spec, prepared.info, cpu), build_loss(spec.loss), prepared.train.order, lambda _: None)
    steps = len(prepared.train.order)

    def epoch() -> None:
        for x, labels in prepared.train.epoch(1):
            step(x, labels, spec.lr)

    def gather() -> None:
        for _ in prepared.train.epoch(1):
            pass

    epoch()
    assert isinstance(step.recorded, Tape)
    lines, large = [], 0.0
    for name, operation in zip(step.recorded.names, step.recorded.operations, strict=True):
        (text, product), microseconds = described(name, operation), best(operation, CALLS)
        large += microseconds if product > LARGE else 0.0
        lines.append({"operation": text, "microseconds": round(microseconds, 2)})
        say(f"{microseconds:7.2f} us  {text}")
    figures = {
        "threads": asked.threads,
        "gradients": asked.gradients,
        "microseconds": {
            "step": round(best(epoch, 1) / steps, 1),
            "gather": round(best(gather, 1) / steps, 1),
            "large_products": round(large, 1),
            "other_operations": round(sum(line["microseconds"] for line in lines) - large, 1),
        },
        "operations": lines,
    }
    publish(f"profile-{asked.threads}-threads", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
