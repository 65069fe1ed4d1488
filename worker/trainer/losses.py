"""The losses: softmax and cross-entropy taken as one layer, forward and backward by hand, and once more for autograd.

Three ways to call one: `loss(logits, labels)` in torch operations, for autograd; `forward` and `backward`, by hand;
`total`, the plain sum over the examples, for evaluation. Labels are class numbers (int64). Knows nothing of models.
"""

from __future__ import annotations

from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from shared import spec

Kept: TypeAlias = tuple[Tensor, ...]


def build_loss(spec_loss: spec.CrossEntropy | spec.ClampedCrossEntropy) -> Loss:
    if isinstance(spec_loss, spec.ClampedCrossEntropy):
        return ClampedCrossEntropyLoss(spec_loss.reduction, spec_loss.clamp)
    return CrossEntropyLoss(spec_loss.reduction)


# N batch · K classes · p softmax probabilities (N,K) · lse log Σ exp(logits), a number an example
class CrossEntropyLoss:
    """-log p[label] = lse - logits[label], summed or averaged over the batch.

    Written as log-sum-exp and not with F.cross_entropy, whose backward has an exp() of its own that is a few units in
    the last place off: so both ways to the gradient make the same roundings, and end with the same weights to the bit.
    """

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._reduced(logits.logsumexp(1) - _of_labels(logits, labels))

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.logsumexp(1) - _of_labels(logits, labels)).sum()

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Kept]:
        """loss () = Σ (lse - logits[label]), divided by N for the mean"""
        lse = logits.logsumexp(1)  # subtracts the row's maximum first: logits of ±1e4 stay finite
        return self._reduced(lse - _of_labels(logits, labels)), (logits, lse, labels)

    def backward(self, kept: Kept) -> Tensor:
        logits, lse, labels = kept
        share = 1.0 / len(labels) if self.reduction == "mean" else 1.0
        dlogits = (logits - lse.unsqueeze(1)).exp_().mul_(share)  # (N,K): p / N
        minus_one = dlogits.new_full((len(labels), 1), -share)
        return dlogits.scatter_add_(1, labels.unsqueeze(1), minus_one)  # (N,K): (p - onehot(label)) / N

    def _reduced(self, losses: Tensor) -> Tensor:
        return losses.mean() if self.reduction == "mean" else losses.sum()


def _of_labels(values: Tensor, labels: Tensor) -> Tensor:
    """values (N,K) -> each row's value at its label, (N)"""
    return values.gather(1, labels.unsqueeze(1)).squeeze(1)


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
