"""The whole state of a training: a run resumed from it ends with the same bits as one that never stopped."""

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


class BestEpoch:
    """Figures and weights of the epoch with the lowest validation loss so far; no weights if there is none yet."""

    def __init__(self) -> None:
        self.epoch, self.val_loss, self.val_accuracy = 0, float("inf"), 0.0
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, val_loss: float, val_accuracy: float, model: nn.Module) -> None:
        """Copy the model's weights if this epoch's validation loss is the lowest so far."""
        if val_loss < self.val_loss:
            self.epoch, self.val_loss, self.val_accuracy = epoch, val_loss, val_accuracy
            self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


class State:
    """Model, optimizer, position in the data, sums of the current epoch, curve so far."""

    def __init__(self, spec: JobSpec, info: DatasetInfo, device: torch.device, streams: int = seeds.STREAMS) -> None:
        self.model = build_model(spec.architecture, info.shape, len(info.classes))
        initialize(self.model, spec.init, seeds.generator(spec.seed, "init", streams=streams))
        # With channels_last, convolutions and pooling take a fifth of the time, on the CPU and on a GPU.
        self.model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        self.optimizer = build_optimizer(spec, self.model)
        self.device, self.streams = device, streams
        self.epoch, self.batch, self.step = 1, 0, 0  # current epoch, its batches done, steps since the start
        self.meter = LossMeter(device)
        self.history = History()
        self.best = BestEpoch()
        self.order_sha256 = ""
        self.epoch_seconds = 0.0  # of the current epoch, without evaluation and checkpoints
        self.training_seconds = 0.0  # of the epochs before

    def advance(self, loss: Tensor) -> None:
        """Count one step, with the loss () of its batch."""
        self.meter.add(loss)
        self.batch += 1
        self.step += 1

    def start_next_epoch(self) -> None:
        """Add the epoch's seconds to the training's and reset what counts within an epoch."""
        self.training_seconds += self.epoch_seconds
        self.epoch, self.batch, self.epoch_seconds = self.epoch + 1, 0, 0.0
        self.meter.reset()

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers, strings, lists and dicts, which torch.load(weights_only=True) reads."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "place": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "meter": self.meter.state_dict(),
            "history": self.history.state_dict(),
            "best": vars(self.best),
            "order_sha256": self.order_sha256,
            "streams": self.streams,
            "threads": torch.get_num_threads(),  # sums are split by thread
            "seconds": {"epoch": self.epoch_seconds, "training": self.training_seconds},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state, global random streams and thread count included.

        Raises TrainingError if it does not fit the spec.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"].to(self.device)
                if "capturable" in group:  # of Adam: as saved, it is that of the checkpoint's device
                    group["capturable"] = self.device.type == "cuda"
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"the checkpoint does not fit the spec: {error}") from error
        self.epoch, self.batch, self.step = (state["place"][name] for name in ("epoch", "batch", "step"))
        self.meter.load_state_dict(state["meter"])
        self.history.load_state_dict(state["history"])
        vars(self.best).update(state["best"])
        self.order_sha256 = state["order_sha256"]
        self.epoch_seconds, self.training_seconds = state["seconds"]["epoch"], state["seconds"]["training"]
        torch.set_num_threads(state.get("threads", torch.get_num_threads()))  # older checkpoints have none
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
