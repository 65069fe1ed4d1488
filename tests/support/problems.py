"""Small models with a batch to train on, some drawn from a seed, for the gradient tests."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from shared.spec import job_spec
from worker.trainer.nets.architectures import build_model, initialize
from worker.trainer.nets.losses import Loss, build_loss

ACTIVATIONS = ["relu", "tanh", "sigmoid", "gelu"]


def problem(
    architecture: job_spec.Architecture,
    shape: tuple[int, int, int] = (1, 8, 8),
    n_classes: int = 5,
    n: int = 6,
    seed: int = 7,
    dtype: torch.dtype = torch.float64,
    init: job_spec.Init | None = None,
) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, x (N,C,H,W) and labels (N)."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model(architecture, shape, n_classes)
    initialize(model, init or job_spec.PytorchInit(), generator)
    x = torch.randn(n, *shape, generator=generator)
    labels = torch.randint(0, n_classes, (n,), generator=generator)
    return model.to(dtype), x.to(dtype), labels


def drawn(seed: int) -> tuple[nn.Module, Tensor, Tensor, Loss]:
    """A random architecture, init, loss and batch, from all that a job with manual gradients may use."""
    rng = random.Random(seed)
    shape = (rng.randint(1, 3), rng.randint(4, 9), rng.randint(4, 9))
    hidden = [rng.randint(1, 9) for _ in range(rng.randint(1, 3))]
    options = {
        "activation": rng.choice(ACTIVATIONS),
        "dropout": rng.choice([0.0, 0.2, 0.5]),
        "batch_norm": rng.random() < 0.5,
    }
    channels = [rng.randint(1, 4) for _ in range(rng.randint(1, 2))]
    kernel = rng.choice([1, 3, 5, 7])
    architecture: job_spec.Architecture = [
        job_spec.Linear(),
        job_spec.Mlp(hidden=hidden, **options),
        job_spec.Cnn(channels=channels, kernel=kernel, hidden=hidden[1:], **options),
        job_spec.Cnn(channels=channels, kernel=kernel, hidden=hidden[1:], **options),
        job_spec.Mlp(hidden=hidden, **options),
    ][seed % 5]
    reduction = rng.choice(["mean", "sum"])
    clamped = job_spec.ClampedCrossEntropy(reduction=reduction, clamp=rng.choice([1e-10, 0.2]))
    loss = rng.choice([job_spec.CrossEntropy(reduction=reduction), clamped])
    init = rng.choice(
        [job_spec.PytorchInit(), job_spec.NormalInit(std=0.5), job_spec.KaimingInit(), job_spec.XavierInit()]
    )
    n = rng.choice([1, 2, 5, 16])
    model, x, labels = problem(architecture, shape, rng.randint(2, 10), n, seed, init=init)
    for layer in model.modules():  # as after some training: batch norm begins with weight 1 and bias 0
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(seed)
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(layer.bias, 0.0, 0.5, generator=generator)
    return model, x, labels, build_loss(loss)
