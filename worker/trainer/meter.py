"""The epoch's running loss. Losses stay on the device: one copy per step, one transfer every `READ_EVERY` steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from shared.errors import Diverged

READ_EVERY = 50  # steps between transfers; also the spacing of the `batch_loss` series


class LossMeter:
    """Sums an epoch's losses in float64 and strictly in order, so that the sum does not depend on when it is read."""

    def __init__(self, device: torch.device) -> None:
        self._window = torch.zeros(READ_EVERY, device=device)
        self._slots = self._window.unbind()
        self._filled = 0
        self.total, self.count = 0.0, 0
        self.last = math.nan
        self.unreported: list[tuple[int, int, float]] = []  # (epoch, step, loss) after the last point of `batch_loss`

    def add(self, loss: Tensor) -> None:
        """Copy a batch's loss () into the window. At most `READ_EVERY` calls between two flushes."""
        self._slots[self._filled].copy_(loss)
        self._filled += 1

    def flush(self, epoch: int, step: int) -> None:
        """Read the window into the sum; `step` is that of the newest loss.

        Raises Diverged with the step of the first loss that is not finite.
        """
        values = self._window[: self._filled].tolist()
        first = step - len(values) + 1
        self._filled = 0
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss became {value} in epoch {epoch} at step {first + i}; try a smaller lr",
                    epoch=epoch,
                    step=first + i,
                )
            self.total += value
            if (first + i) % READ_EVERY:
                self.unreported.append((epoch, first + i, value))
            else:  # this step has a point of the curve
                self.unreported.clear()
        self.count += len(values)
        self.last = values[-1] if values else self.last

    def mean(self) -> float:
        """The mean over the batches that were flushed since the last reset."""
        return self.total / self.count

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        assert self._filled == 0, "flush before saving"
        return {"total": self.total, "count": self.count, "last": self.last, "unreported": list(self.unreported)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.count, self.last = state["total"], int(state["count"]), state["last"]
        self.unreported = list(state.get("unreported", []))  # release 0.2.0 stored none
