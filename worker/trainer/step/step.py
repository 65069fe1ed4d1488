"""One training step: forward, gradients, optimizer. Replayed from a tape or a CUDA graph if it can be recorded."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from shared.events import Log, Report
from shared.spec.job_spec import JobSpec
from worker.trainer.data.batches import ShuffledBatches
from worker.trainer.gradients.manual_and_autograd import GRADIENTS
from worker.trainer.nets.losses import Loss
from worker.trainer.step import tape
from worker.trainer.step.cuda_graph import Graph
from worker.trainer.step.optimizers import set_rate
from worker.trainer.step.state import State

WARM_UP = 3  # steps before one is recorded: optimizers and CUDA's libraries then have allocated their memory
WORTHWHILE = 100  # steps still to come: recording costs milliseconds and saves about 0.1 ms per step


class Step:
    """A callable that trains on a batch. Batches of the full size are replayed on fixed tensors; others run eagerly.

    The results are the same to the bit: a replay runs the kernels of a step that ran.
    """

    def __init__(self, spec: JobSpec, state: State, loss: Loss, order: ShuffledBatches, report: Report) -> None:
        self.model, self.optimizer, self.loss, self.report = state.model, state.optimizer, loss, report
        self.fill_gradients, self.precision = GRADIENTS[spec.gradients], spec.precision
        self._lr = math.nan
        self.recorded: tape.Tape | Graph | None = None
        self._x: Tensor | None = None
        self._labels: Tensor | None = None
        self._size = min(spec.batch_size, len(order.indices))  # the last batch of an epoch may be smaller
        to_come = spec.epochs * len(order) - state.step
        self._until_capture = WARM_UP if to_come >= WORTHWHILE else -1

    def __call__(self, x: Tensor, labels: Tensor, lr: float) -> Tensor:
        """Train on x (N,C,H,W) and labels (N); return the batch's loss (), which the next call may overwrite."""
        if lr != self._lr:
            set_rate(self.optimizer, lr)
            self._lr = lr
        if self.recorded is not None and len(labels) == self._size:
            if x is not self._x or labels is not self._labels:
                self._copy_batch(x, labels)
            return self.recorded.replay()
        if len(labels) == self._size and self._until_capture >= 0:
            self._until_capture -= 1
            if self._until_capture < 0:
                return self._capture(x, labels)
        return self.run(x, labels)

    def run(self, x: Tensor, labels: Tensor) -> Tensor:
        """The step itself, run eagerly: returns the loss ()."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast(x.device.type):
            loss = self.fill_gradients(self.model, self.loss, x, labels)
        self.optimizer.step()
        return loss

    def _capture(self, x: Tensor, labels: Tensor) -> Tensor:
        """Run the step on this batch and record it. If that is not possible, log why; later steps then run eagerly."""
        self._x, self._labels = x, labels  # the next batch is in the same tensors, or `_copy_batch` copies it
        if x.device.type == "cuda":
            return self._capture_graph(x, labels)
        recorded, loss, obstacle = tape.record(lambda: self.run(x, labels))
        if recorded is None:
            self._log(f"steps run one by one: {obstacle}", {"reason": obstacle})
        else:
            data = {"captured": "tape", "operations": len(recorded)}
            self._log(f"steps are repeated from a tape of {len(recorded)} operations", data)
        self.recorded = recorded
        return loss

    def _capture_graph(self, x: Tensor, labels: Tensor) -> Tensor:
        if not isinstance(self.model, nn.Sequential):  # its kernels are long, and its code may read values back
            self._log("steps run one by one: a model of torchvision is not captured", {"reason": "not our own layers"})
            return self.run(x, labels)
        self._x, self._labels = x.clone(), labels.clone()
        state = torch.cuda.get_rng_state(x.device)
        try:
            self.recorded = Graph(lambda: self.run(self._x, self._labels))  # type: ignore[arg-type]
        except RuntimeError as error:  # an operation that synchronizes, or allocates memory outside the graph
            torch.cuda.synchronize(x.device)
            torch.cuda.set_rng_state(state, x.device)
            # Raises if the capture could not be ended: the attempt then fails here and not in a later step that draws.
            torch.rand(1, device=x.device)
            torch.cuda.set_rng_state(state, x.device)
            reason = str(error).splitlines()[0]
            self._log(f"steps run one by one: no CUDA graph holds them ({reason})", {"reason": reason})
            return self.run(x, labels)
        self._log("steps are repeated from a CUDA graph", {"captured": "cuda_graph"})
        return self.recorded.replay()  # capturing does not run the step

    def _copy_batch(self, x: Tensor, labels: Tensor) -> None:
        """Copy the batch into the tensors of the recorded step."""
        assert self._x is not None
        assert self._labels is not None
        if x is not self._x:
            self._x.copy_(x, non_blocking=True)
        if labels is not self._labels:
            self._labels.copy_(labels, non_blocking=True)

    def _autocast(self, device: str) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        # Each weight is cast once per forward anyway; a cache would pass a graph's tensors to an eager step.
        return torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False)

    def _log(self, message: str, data: dict[str, Any]) -> None:
        self.report(Log(message=message, data=data))
