"""Each stage's formula as plain text: a is the hidden layer before its activation, h after it, z the logits."""

from __future__ import annotations

from collections.abc import Iterator

from shared.spec.job_spec import ClampedCrossEntropy, Linear, WalkSpec

Lines = Iterator[tuple[str, str]]

SLOPES = {
    "relu": "dh where a > 0, else 0",
    "tanh": "dh (1 − h²)",
    "sigmoid": "dh h (1 − h)",
    "gelu": "dh (Φ(a) + a φ(a))",
}
ACTIVATIONS = {"relu": "max(a, 0)", "tanh": "tanh a", "sigmoid": "1 / (1 + exp(−a))", "gelu": "a Φ(a)"}


def formulas_of(spec: WalkSpec) -> dict[str, str]:
    """The formula of each stage, by the stage's name in stages.py."""
    return dict([*_forward(spec), *_losses(spec), *_backward(spec)])


def _forward(spec: WalkSpec) -> Lines:
    net = spec.architecture
    yield "x", "x = (pixels − mean) / std"
    if isinstance(net, Linear):
        yield "logits", "z = x Wᵀ + b"
    else:
        yield "hidden", "a = x W₁ᵀ + b₁"
        yield "activation", f"h = {ACTIVATIONS[net.activation]}"
        yield "logits", "z = h W₂ᵀ + b₂"
    yield "softmax", "p = exp(z − max z) / Σ exp(z − max z)"


def _losses(spec: WalkSpec) -> Lines:
    divisor = " / N" if spec.loss.reduction == "mean" else ""
    dlogits = f"dz = (p − onehot(label)){divisor}"
    if isinstance(spec.loss, ClampedCrossEntropy):
        yield "losses", f"ℓ = −log max(p[label], {spec.loss.clamp:g})"
        dlogits += f", and 0 where p[label] < {spec.loss.clamp:g}"
    else:
        yield "losses", "ℓ = −log p[label]"
    yield "loss", f"L = Σ ℓ{divisor}"
    yield "dlogits", dlogits


def _backward(spec: WalkSpec) -> Lines:
    net = spec.architecture
    if isinstance(net, Linear):
        yield "dW", "dW = dzᵀ x"
        yield "db", "db = Σ dz over the batch"
        return
    yield "dW2", "dW₂ = dzᵀ h"
    yield "db2", "db₂ = Σ dz over the batch"
    yield "dactivation", "dh = dz W₂"
    yield "dhidden", f"da = {SLOPES[net.activation]}"
    yield "dW1", "dW₁ = daᵀ x"
    yield "db1", "db₁ = Σ da over the batch"
