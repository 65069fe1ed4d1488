"""All that changes while a job trains, in one place: a run resumed from it goes on as if it had never stopped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shared.datasets.catalog import DatasetInfo
from shared.errors import TrainingError
from shared.spec.job_spec import JobSpec
from worker.trainer import seeds
from worker.trainer.history import History
from worker.trainer.meter import LossMeter
from worker.trainer.nets.architectures import build_model, initialize
from worker.trainer.step.optimizers import build_optimizer


class Best:
    """The weights of the epoch with the lowest validation loss so far."""

    def __init__(self) -> None:
        self.epoch, self.val_loss, self.val_accuracy = 0, float("inf"), 0.0
        self.weights: dict[str, Tensor] = {}

    def offer(self, epoch: int, val_loss: float, val_accuracy: float, model: nn.Module) -> None:
        if val_loss < self.val_loss:
            self.epoch, self.val_loss, self.val_accuracy = epoch, val_loss, val_accuracy
            self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class State:
    """Model, optimizer, place in the data, sums of the open epoch, curve so far."""

    def __init__(self, spec: JobSpec, info: DatasetInfo, device: torch.device) -> None:
        self.model = build_model(spec.architecture, info.shape, len(info.classes))
        initialize(self.model, spec.init, seeds.generator(spec.seed, "init"))
        # Where an image's channels lie side by side, convolutions and pooling take a fifth of the time, CPU or GPU.
        self.model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        self.optimizer = build_optimizer(spec, self.model)
        self.device = device
        self.epoch, self.batch, self.step = 1, 0, 0  # the epoch under way, its batches done, updates since the start
        self.meter = LossMeter(device)
        self.history = History()
        self.best = Best()
        self.order_sha256 = ""
        self.epoch_seconds = 0.0  # of the open epoch, training alone
        self.training_seconds = 0.0  # of the epochs before it

    def advance(self, loss: Tensor) -> None:
        self.meter.add(loss)
        self.batch += 1
        self.step += 1

    def close_epoch(self) -> None:
        self.training_seconds += self.epoch_seconds
        self.epoch, self.batch, self.epoch_seconds = self.epoch + 1, 0, 0.0
        self.meter.reset()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, strings and lists of them: what torch.load(weights_only=True) reads."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "place": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "meter": self.meter.state_dict(),
            "history": self.history.state_dict(),
            "best": vars(self.best),
            "order_sha256": self.order_sha256,
            "seconds": {"epoch": self.epoch_seconds, "training": self.training_seconds},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"].to(self.device)
                if "capturable" in group:  # Adam's, of the device that the checkpoint was written on
                    group["capturable"] = self.device.type == "cuda"
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"the checkpoint does not fit the spec: {error}") from error
        self.epoch, self.batch, self.step = (state["place"][name] for name in ("epoch", "batch", "step"))
        self.meter.load_state_dict(state["meter"])
        self.history.load_state_dict(state["history"])
        vars(self.best).update(state["best"])
        self.order_sha256 = state["order_sha256"]
        self.epoch_seconds, self.training_seconds = state["seconds"]["epoch"], state["seconds"]["training"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
