"""Derivatives by finite differences: how much the loss changes when one weight does, without any rule of calculus.

A central difference with step h has an error of O(h²), plus the rounding error of the loss divided by h. The method of
Ridders (1982; Numerical Recipes, 3rd edition, section 5.7, `dfridr`) takes a few steps of decreasing size, extrapolates
to h = 0 and returns the extrapolation with the smallest error estimate: three digits more than the best single h.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.trainer.gradients.manual_and_autograd import batch_norm_fit_for
from worker.trainer.nets.losses import ClampedCrossEntropyLoss, Loss
from worker.trainer.seeds import RngState

FIRST_STEP = 1e-3  # times max(1, |w|); extrapolated from here, the remaining error is below the rounding
SHRINK = 4.0
STEPS = 6  # down to 1e-6: below that, the rounding error of 2e-16 times the loss over the step dominates
ENOUGH = 3  # steps for a smooth loss; an error estimate needs at least two
GOOD = 1e-10  # an error estimate, relative to max(1, |loss|), that more steps would hardly reduce


class LossSurface:
    """The loss on one batch as a function of the weights, with every random draw of the forward pass held fixed.

    The model must be in float64. Its weights are changed while `slope` runs, and restored.
    """

    def __init__(self, model: nn.Module, criterion: Loss, x: Tensor, labels: Tensor) -> None:
        assert isinstance(model, nn.Sequential)
        self.model, self.criterion, self.x, self.labels = model, criterion, x, labels
        self.rng_state = RngState(x.device)
        self.loss, self.kink_pattern = self._evaluate()

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, list[Tensor]]:
        """The loss, and its kink pattern: which side of each kink (a jump of the derivative) the forward pass took."""
        self.rng_state.restore()  # dropout draws the same masks each time
        x, kink_pattern = self.x, []
        with batch_norm_fit_for(self.model, len(self.labels)):
            for layer in self.model:
                if isinstance(layer, nn.MaxPool2d):
                    x, winners = F.max_pool2d(x, layer.kernel_size, return_indices=True)
                    kink_pattern.append(winners)
                else:
                    x = layer(x)
                if isinstance(layer, nn.ReLU):
                    kink_pattern.append(x > 0)
        if isinstance(self.criterion, ClampedCrossEntropyLoss):
            kink_pattern.append(x.softmax(1).gather(1, self.labels.unsqueeze(1)) >= self.criterion.clamp)
        return self.criterion(x, self.labels).item(), kink_pattern

    def loss_on_this_side(self) -> float | None:
        """The loss at the current weights; None if a kink is between them and the original weights."""
        loss, kink_pattern = self._evaluate()
        return loss if all(map(torch.equal, kink_pattern, self.kink_pattern)) else None

    def slope(self, weights: Tensor, i: int) -> float | None:
        """The derivative of the loss with respect to element i of `weights`, a flat view of a parameter of the model.

        None if there is none to compare with: a kink is within the smallest steps.
        """
        centre = weights[i].item()
        best, smallest_error = None, float("inf")
        before: list[float] = []  # the row of the previous step: [plain, h² eliminated, h⁴ eliminated, …]
        for k in range(STEPS):
            step = FIRST_STEP * max(1.0, abs(centre)) / SHRINK**k
            above, below = centre + step, centre - step
            difference = self._difference(weights, i, centre, above, below)
            if difference is None:
                before = []
                continue
            row = [difference / (above - below)]  # the exact step, since centre + step was rounded
            for j, longer in enumerate(before):
                row.append(row[j] + (row[j] - longer) / (SHRINK ** (2 * (j + 1)) - 1))
                error = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - longer))
                if error < smallest_error:
                    best, smallest_error = row[j + 1], error
            if len(row) >= ENOUGH and smallest_error <= GOOD * max(1.0, abs(self.loss)):
                break
            before = row
        return best

    def _difference(self, weights: Tensor, i: int, centre: float, above: float, below: float) -> float | None:
        try:
            weights[i] = above
            upper = self.loss_on_this_side()
            weights[i] = below
            lower = self.loss_on_this_side()
        finally:
            weights[i] = centre
        return None if upper is None or lower is None else upper - lower
