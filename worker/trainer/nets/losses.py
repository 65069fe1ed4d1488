"""The losses: softmax and cross-entropy taken as one layer, forward and backward by hand, and once more for autograd.

Three ways to call one: `loss(logits, labels)` in torch operations, for autograd; `forward` and `backward`, by hand;
`total`, the plain sum over the examples, for evaluation. Labels are class numbers (int64). Knows nothing of models.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from shared.spec import job_spec

Cache: TypeAlias = tuple[Tensor, ...]


def build_loss(spec_loss: job_spec.CrossEntropy | job_spec.ClampedCrossEntropy) -> Loss:
    if isinstance(spec_loss, job_spec.ClampedCrossEntropy):
        return ClampedCrossEntropyLoss(spec_loss.reduction, spec_loss.clamp)
    return CrossEntropyLoss(spec_loss.reduction)


# N batch · K classes · z logits less their row's largest (K,N) · p softmax probabilities
#
# Everything stands with the examples side by side, (K,N): a sum over classes is then a sum of long rows, which a CPU
# adds 16 at a time; along rows of 10 the same softmax takes nine times as long.
class CrossEntropyLoss:
    """-log p[label] = log Σ exp(z) - z[label], summed or averaged over the batch.

    Written out and not as F.cross_entropy, whose backward has an exp() of its own that is a few units in the last place
    off: so both ways to the gradient make the same roundings, and end with the same weights to the bit.
    """

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        z = _shift_by_max(logits)
        return self._reduced(z.exp().sum(0).log() - _at_labels(z, labels))

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.logsumexp(1) - logits.gather(1, labels.unsqueeze(1)).squeeze(1)).sum()

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Cache]:
        """loss () = Σ (log Σ exp(z) - z[label]), divided by N for the mean"""
        z = _shift_by_max(logits)  # logits of ±1e4 stay finite
        exps = z.exp()  # (K,N)
        sums = exps.sum(0)  # (N)
        return self._reduced(sums.log() - _at_labels(z, labels)), (exps, sums, labels)

    def backward(self, cache: Cache) -> Tensor:
        exps, sums, labels = cache
        shares = _example_weights(self.reduction, sums)
        dlogits = exps * (shares / sums)  # (K,N): p / N
        return dlogits.scatter_add_(0, labels.unsqueeze(0), -shares.unsqueeze(0)).T  # (N,K): (p - onehot(label)) / N

    def _reduced(self, losses: Tensor) -> Tensor:
        return losses.dot(_example_weights(self.reduction, losses))


def _example_weights(reduction: str, losses: Tensor) -> Tensor:
    """What each example's loss counts in the batch's, (N)"""
    return torch.full_like(losses, 1.0 / len(losses) if reduction == "mean" else 1.0)


def _shift_by_max(logits: Tensor) -> Tensor:
    """logits (N,K) -> z (K,N): softmax and its gradient are the same for any number taken off a row."""
    columns = logits.T
    return columns - columns.detach().amax(0)


def _at_labels(z: Tensor, labels: Tensor) -> Tensor:
    """z (K,N) -> each example's value at its label, (N)"""
    return z.gather(0, labels.unsqueeze(0)).squeeze(0)


class ClampedCrossEntropyLoss:
    """-log(clamp(p[label], clamp, 1)): an example with p[label] below `clamp` costs -log(clamp) and teaches nothing."""

    def __init__(self, reduction: str = "mean", clamp: float = 1e-10) -> None:
        self.reduction = reduction
        self.clamp = clamp

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._reduced(_at_labels(softmax(logits), labels))

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -_at_labels(softmax(logits), labels).clamp(self.clamp, 1).log().sum()

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Cache]:
        """loss () = -Σ log(max(p[label], clamp)), divided by N for the mean"""
        p = softmax(logits)  # (K,N)
        p_label = _at_labels(p, labels)  # (N)
        return self._reduced(p_label), (p, p_label, labels)

    def backward(self, cache: Cache) -> Tensor:
        p, p_label, labels = cache
        # (N): below the clamp the loss is flat
        passes = (p_label >= self.clamp) * _example_weights(self.reduction, p_label)
        # (N,K): (p - onehot(label)) / N, or a row of zeros
        return (p * passes).scatter_add_(0, labels.unsqueeze(0), -passes.unsqueeze(0)).T

    def _reduced(self, p_label: Tensor) -> Tensor:
        losses = -p_label.clamp(self.clamp, 1).log()
        return losses.dot(_example_weights(self.reduction, losses))


def softmax(logits: Tensor) -> Tensor:
    """logits (N,K) -> p (K,N)"""
    exps = _shift_by_max(logits).exp()
    return exps / exps.sum(0)


Loss: TypeAlias = CrossEntropyLoss | ClampedCrossEntropyLoss
