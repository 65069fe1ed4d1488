"""The result of a finished run, as the job object shows it."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import nn

from shared.spec.job_spec import JobSpec
from worker.trainer import device
from worker.trainer.data.datasets import Data
from worker.trainer.nets.architectures import count_parameters
from worker.trainer.run import Outcome
from worker.trainer.step.state import BestEpoch


def result_of(spec: JobSpec, data: Data, outcome: Outcome) -> dict[str, Any]:
    """The job's `result`: last and best figures, times in seconds, hashes and environment, as plain JSON values."""
    state = outcome.state
    last = {name: points[-1][2] for name, points in state.history.series().items()}
    return {
        "parameters": count_parameters(state.model),
        "train_loss": last["train_loss"],
        "val_loss": last["val_loss"],
        "val_accuracy": last["val_accuracy"],
        "test_loss": outcome.test.loss,
        "test_accuracy": outcome.test.accuracy,
        "best": _figures(state.best),
        "normalization": {"mean": data.normalization.mean, "std": data.normalization.std},
        "training_seconds": state.training_seconds,
        "examples_per_second": (state.epoch - 1) * len(data.train.order.indices) / state.training_seconds,
        "stopped_early": outcome.stopped_early,
        "untrained_accuracy": outcome.untrained_accuracy,
        "device": str(data.device),
        "pinned_memory": data.train.pinned,
        "weights_sha256": weights_sha256(state.model),
        "data_order_sha256": state.order_sha256,
        "validation_split": data.validation_split,
        "gradient_check": outcome.gradient_check,
        "environment": device.environment(data.device),
    }


def weights_sha256(model: nn.Module) -> str:
    """Hexadecimal sha256 over name, dtype, shape and bytes of every parameter and buffer, in the model's order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _figures(best: BestEpoch) -> dict[str, Any] | None:
    if not best.weights:
        return None
    return {"epoch": best.epoch, "val_loss": best.val_loss, "val_accuracy": best.val_accuracy}
