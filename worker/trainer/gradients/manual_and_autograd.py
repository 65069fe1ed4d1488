"""The two ways to a gradient: PyTorch's and the one by hand. Knows models and losses; takes no optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from worker.trainer.nets.layers import BATCH_NORMS, PAIRS, WITH_WEIGHTS, set_grad
from worker.trainer.nets.losses import Loss


def autograd_gradients(model: nn.Module, loss: Loss, x: Tensor, labels: Tensor) -> Tensor:
    """Fill every p.grad by letting PyTorch replay the forward pass backwards."""
    with batch_norm_fit_for(model, len(labels)):
        logits = model(x)
    value = loss(logits if logits.dtype != torch.bfloat16 else logits.float(), labels)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
        set_grad(parameter, gradient)  # value.backward() would add to p.grad, a copy more
    return value.detach()


@torch.no_grad()
def manual_gradients(model: nn.Module, loss: Loss, x: Tensor, labels: Tensor) -> Tensor:
    """Fill every p.grad with the chain rule written out by hand."""
    assert isinstance(model, nn.Sequential)
    with batch_norm_fit_for(model, len(labels)):
        caches = []
        for layer in model:
            forward, _ = PAIRS[type(layer)]
            x, cache = forward(layer, x)
            caches.append((layer, cache))
        value, cache = loss.forward(x, labels)
        dout = loss.backward(cache)
        lowest = next(layer for layer in model if isinstance(layer, WITH_WEIGHTS))
        while caches:
            layer, cache = caches.pop()  # lets go of each activation as soon as it is used
            _, backward = PAIRS[type(layer)]
            if layer is lowest:
                backward(layer, dout, cache, needs_dx=False)  # below lies only the data, which learns nothing
                break
            dout = backward(layer, dout, cache)
    return value


@contextmanager
def batch_norm_fit_for(model: nn.Module, examples: int) -> Iterator[None]:
    """Let a last batch of one example train a net with batch normalization.

    One example has no spread to be divided by, and PyTorch refuses it. Batch norm layers then do as in evaluation: they
    normalize by their running statistics, and learn weight and bias from the example but no statistics.
    """
    settled = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.training] if examples == 1 else []
    for layer in settled:
        layer.training = False
    try:
        yield
    finally:
        for layer in settled:
            layer.training = True


Gradients = Callable[[nn.Module, Loss, Tensor, Tensor], Tensor]

GRADIENTS: dict[str, Gradients] = {"autograd": autograd_gradients, "manual": manual_gradients}
