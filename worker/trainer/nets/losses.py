"""The losses: softmax and cross-entropy as one layer, with a manual forward and backward pass, and for autograd.

Three ways to call one: `loss(logits, labels)` in torch operations, for autograd; `forward` and `backward`, the manual
passes; `total`, the sum over the examples, for evaluation. Logits are (N,K), labels class numbers (N) int64.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from shared.spec import job_spec

Cache: TypeAlias = tuple[Tensor, ...]


def build_loss(spec_loss: job_spec.CrossEntropy | job_spec.ClampedCrossEntropy) -> Loss:
    """The loss that a spec names."""
    if isinstance(spec_loss, job_spec.ClampedCrossEntropy):
        return ClampedCrossEntropyLoss(spec_loss.reduction, spec_loss.clamp)
    return CrossEntropyLoss(spec_loss.reduction)


# N batch · K classes · z logits minus the largest of their example (K,N) · p softmax probabilities
#
# All is stored with one column per example, (K,N): a sum over classes is then a sum of long rows, which a CPU adds 16
# values at a time; along rows of 10 values the same softmax takes nine times as long.
class CrossEntropyLoss:
    """-log p[label] = log Σ exp(z) - z[label], summed or averaged over the batch.

    Not F.cross_entropy, whose backward uses another exp() that differs in the last bits: written out, manual and
    autograd gradients have the same roundings, and trainings end with the same weights to the bit.
    """

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """loss (), as of `forward`, differentiable by autograd"""
        z = _shift_by_max(logits)
        return self._reduced(z.exp().sum(0).log() - _at_labels(z, labels))

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum of the examples' losses, (), for any reduction"""
        return (logits.logsumexp(1) - logits.gather(1, labels.unsqueeze(1)).squeeze(1)).sum()

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Cache]:
        """loss () = Σ (log Σ exp(z) - z[label]), divided by N for the mean"""
        z = _shift_by_max(logits)  # exp() of logits of ±1e4 stays finite
        exps = z.exp()  # (K,N)
        sums = exps.sum(0)  # (N)
        return self._reduced(sums.log() - _at_labels(z, labels)), (exps, sums, labels)

    def backward(self, cache: Cache) -> Tensor:
        """dlogits (N,K) = p - onehot(label), divided by N for the mean"""
        exps, sums, labels = cache
        weights = _example_weights(self.reduction, sums)
        dlogits = exps * (weights / sums)  # (K,N): p / N
        return dlogits.scatter_add_(0, labels.unsqueeze(0), -weights.unsqueeze(0)).T

    def _reduced(self, losses: Tensor) -> Tensor:
        return losses.dot(_example_weights(self.reduction, losses))


def _example_weights(reduction: str, losses: Tensor) -> Tensor:
    """The weight of each example's loss in the batch's loss, (N): 1/N for the mean, 1 for the sum"""
    return torch.full_like(losses, 1.0 / len(losses) if reduction == "mean" else 1.0)


def _shift_by_max(logits: Tensor) -> Tensor:
    """logits (N,K) -> z (K,N). Softmax and its gradient do not change if a constant is subtracted from an example."""
    columns = logits.T
    return columns - columns.detach().amax(0)


def _at_labels(z: Tensor, labels: Tensor) -> Tensor:
    """z (K,N) -> the value of each example at its label, (N)"""
    return z.gather(0, labels.unsqueeze(0)).squeeze(0)


class ClampedCrossEntropyLoss:
    """-log(clamp(p[label], clamp, 1)): an example with p[label] below `clamp` costs -log(clamp), with zero gradient."""

    def __init__(self, reduction: str = "mean", clamp: float = 1e-10) -> None:
        self.reduction = reduction
        self.clamp = clamp

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """loss (), as of `forward`, differentiable by autograd"""
        return self._reduced(_at_labels(softmax(logits), labels))

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum of the examples' losses, (), for any reduction"""
        return -_at_labels(softmax(logits), labels).clamp(self.clamp, 1).log().sum()

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Cache]:
        """loss () = -Σ log(max(p[label], clamp)), divided by N for the mean"""
        p = softmax(logits)  # (K,N)
        p_label = _at_labels(p, labels)  # (N)
        return self._reduced(p_label), (p, p_label, labels)

    def backward(self, cache: Cache) -> Tensor:
        """dlogits (N,K) = p - onehot(label), divided by N for the mean; zeros for an example below the clamp"""
        p, p_label, labels = cache
        weights = (p_label >= self.clamp) * _example_weights(self.reduction, p_label)
        return (p * weights).scatter_add_(0, labels.unsqueeze(0), -weights.unsqueeze(0)).T

    def _reduced(self, p_label: Tensor) -> Tensor:
        losses = -p_label.clamp(self.clamp, 1).log()
        return losses.dot(_example_weights(self.reduction, losses))


def softmax(logits: Tensor) -> Tensor:
    """logits (N,K) -> p (K,N) = exp(z) / Σ exp(z)"""
    exps = _shift_by_max(logits).exp()
    return exps / exps.sum(0)


Loss: TypeAlias = CrossEntropyLoss | ClampedCrossEntropyLoss
