"""The two ways to compute gradients: PyTorch's autograd and the manual backward pass. Takes no optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from worker.trainer.nets.layers import BATCH_NORMS, PAIRS, WITH_WEIGHTS, set_grad
from worker.trainer.nets.losses import Loss


def autograd_gradients(model: nn.Module, loss: Loss, x: Tensor, labels: Tensor) -> Tensor:
    """Fill every p.grad by autograd on the batch x (N,C,H,W), labels (N). Returns the loss ()."""
    with batch_norm_fit_for(model, len(labels)):
        logits = model(x)
    value = loss(logits if logits.dtype != torch.bfloat16 else logits.float(), labels)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
        set_grad(parameter, gradient)  # value.backward() would copy into p.grad
    return value.detach()


@torch.no_grad()
def manual_gradients(model: nn.Module, loss: Loss, x: Tensor, labels: Tensor) -> Tensor:
    """Fill every p.grad by the manual backward pass on the batch x (N,C,H,W), labels (N). Returns the loss ()."""
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
            layer, cache = caches.pop()  # each activation is freed as soon as it is used
            _, backward = PAIRS[type(layer)]
            if layer is lowest:
                backward(layer, dout, cache, needs_dx=False)  # below it is only the data, which needs no gradient
                break
            dout = backward(layer, dout, cache)
    return value


@contextmanager
def batch_norm_fit_for(model: nn.Module, examples: int) -> Iterator[None]:
    """Let a batch of one example, the last of an epoch, train a model with batch normalization.

    One example has no variance, and PyTorch raises for it. Within the block the batch norm layers then normalize by
    their running statistics, as in evaluation: weight and bias are trained, the statistics are not updated.
    """
    frozen = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.training] if examples == 1 else []
    for layer in frozen:
        layer.training = False
    try:
        yield
    finally:
        for layer in frozen:
            layer.training = True


Gradients = Callable[[nn.Module, Loss, Tensor, Tensor], Tensor]  # model, loss, x, labels -> loss ()

GRADIENTS: dict[str, Gradients] = {"autograd": autograd_gradients, "manual": manual_gradients}
