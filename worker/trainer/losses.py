"""The losses: softmax and cross-entropy taken as one layer, forward and backward by hand, and once more for autograd.

Three ways to call one: `loss(logits, labels)` in torch operations, for autograd; `forward` and `backward`, by hand;
`total`, the plain sum over the examples, for evaluation. Labels are class numbers (int64). Knows nothing of models.
"""

from __future__ import annotations

from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from shared import spec

Kept: TypeAlias = tuple[Tensor, Tensor]


def build_loss(spec_loss: spec.CrossEntropy | spec.ClampedCrossEntropy) -> Loss:
    if isinstance(spec_loss, spec.ClampedCrossEntropy):
        return ClampedCrossEntropyLoss(spec_loss.reduction, spec_loss.clamp)
    return CrossEntropyLoss(spec_loss.reduction)


# N batch · K classes · p softmax probabilities (N,K)
class CrossEntropyLoss:
    """-log p[label], summed or averaged over the batch."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction=self.reduction)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Kept]:
        """loss () = -Σ log p[label], divided by N for the mean"""
        log_p = logits.log_softmax(1)  # subtracts the row's maximum first: logits of ±1e4 stay finite
        return F.nll_loss(log_p, labels, reduction=self.reduction), (log_p, labels)

    def backward(self, kept: Kept) -> Tensor:
        log_p, labels = kept
        dlogits = log_p.exp().sub_(F.one_hot(labels, log_p.shape[1]))  # (N,K): p - onehot(label)
        return dlogits.div_(len(labels)) if self.reduction == "mean" else dlogits


class ClampedCrossEntropyLoss:
    """-log(clamp(p[label], clamp, 1)): an example with p[label] below `clamp` costs -log(clamp) and teaches nothing."""

    def __init__(self, reduction: str = "mean", clamp: float = 1e-10) -> None:
        self.reduction = reduction
        self.clamp = clamp

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = self.total(logits, labels)
        return total / len(labels) if self.reduction == "mean" else total

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        p_label = logits.softmax(1).gather(1, labels.unsqueeze(1))  # (N,1)
        return -p_label.clamp(self.clamp, 1).log().sum()

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Kept]:
        """loss () = -Σ log(max(p[label], clamp)), divided by N for the mean"""
        p = logits.softmax(1)
        p_label = p.gather(1, labels.unsqueeze(1))  # (N,1)
        total = -p_label.clamp(self.clamp, 1).log().sum()
        return total / len(labels) if self.reduction == "mean" else total, (p, labels)

    def backward(self, kept: Kept) -> Tensor:
        p, labels = kept
        passes = p.gather(1, labels.unsqueeze(1)) >= self.clamp  # (N,1): below the clamp the loss is flat
        dlogits = (p - F.one_hot(labels, p.shape[1])).mul_(passes)  # (N,K): p - onehot(label), or a row of zeros
        return dlogits.div_(len(labels)) if self.reduction == "mean" else dlogits


Loss: TypeAlias = CrossEntropyLoss | ClampedCrossEntropyLoss
