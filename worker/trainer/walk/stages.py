"""The stages of a linear or two-layer network: every tensor of one batch, forward and backward, computed in two ways.

`by_hand` uses layers.py and losses.py, as a job with manual gradients. `by_autograd` uses none of that code: PyTorch's
functions forward, autograd backward. Both return the same names in the same order:

    linear     x  logits  softmax  losses  loss  dlogits  dW  db
    two-layer  x  hidden  activation  logits  softmax  losses  loss
               dlogits  dW2  db2  dactivation  dhidden  dW1  db1
"""

from __future__ import annotations

from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.trainer.nets.layers import PAIRS
from worker.trainer.nets.losses import ClampedCrossEntropyLoss, Loss, softmax

Tensors = dict[str, Tensor]

# Names of the layers' outputs by the number of layers: flatten, linear; or flatten, linear, activation, linear.
OUTPUTS = {2: ("x", "logits"), 4: ("x", "hidden", "activation", "logits")}

AXES: dict[str, tuple[str, ...]] = {  # a gradient, d…, has the axes of its tensor
    "x": ("example", "pixel"),
    "hidden": ("example", "unit"),
    "activation": ("example", "unit"),
    "logits": ("example", "class"),
    "softmax": ("example", "class"),
    "losses": ("example",),
    "loss": (),
    "W": ("class", "pixel"),
    "b": ("class",),
    "W1": ("unit", "pixel"),
    "b1": ("unit",),
    "W2": ("class", "unit"),
    "b2": ("class",),
}


def weights(model: nn.Sequential) -> Tensors:
    """W and b of the linear network; W1, b1, W2 and b2 of the two-layer one, from the input on. W (O,I), b (O)."""
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    numbers = count(1) if len(linear) > 1 else [""]
    return {
        f"{name}{n}": p
        for n, layer in zip(numbers, linear, strict=False)
        for name, p in (("W", layer.weight), ("b", layer.bias))
    }


@torch.no_grad()
def by_hand(model: nn.Sequential, loss: Loss, x: Tensor, labels: Tensor) -> Tensors:
    """The stages of the batch x (N,C,H,W), labels (N), by the manual passes. Sets every p.grad."""
    found: Tensors = {}
    caches = []
    for name, layer in zip(OUTPUTS[len(model)], model, strict=True):
        forward, _ = PAIRS[type(layer)]
        x, cache = forward(layer, x)
        found[name] = x
        caches.append((name, layer, cache))
    found["softmax"] = softmax(x).T
    found["losses"] = torch.stack([loss.forward(x[i : i + 1], labels[i : i + 1])[0] for i in range(len(labels))])
    found["loss"], cache = loss.forward(x, labels)
    names = {p: name for name, p in weights(model).items()}
    dout = loss.backward(cache)
    for name, layer, cache in reversed(caches[1:]):  # not of the flattened images, which need no gradient
        found[f"d{name}"] = dout
        _, backward = PAIRS[type(layer)]
        dout = backward(layer, dout, cache)
        for p in layer.parameters():
            assert p.grad is not None
            found[f"d{names[p]}"] = p.grad
    return found


def by_autograd(model: nn.Sequential, loss: Loss, x: Tensor, labels: Tensor) -> Tensors:
    """The stages of the batch x (N,C,H,W), labels (N), by autograd. Sets no p.grad."""
    found: Tensors = {}
    with torch.enable_grad():
        for name, layer in zip(OUTPUTS[len(model)], model, strict=True):
            x = F.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
            found[name] = x
        found["softmax"] = x.softmax(1)
        found["losses"] = _losses(loss, x, labels)
        found["loss"] = found["losses"].mean() if loss.reduction == "mean" else found["losses"].sum()
        wanted = _in_backward_order(model, found)
        gradients = torch.autograd.grad(found["loss"], list(wanted.values()))
    found |= {f"d{name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in found.items()}


def _losses(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    if isinstance(loss, ClampedCrossEntropyLoss):
        return -logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1).clamp(loss.clamp, 1).log()
    return F.cross_entropy(logits, labels, reduction="none")


def _in_backward_order(model: nn.Sequential, found: Tensors) -> Tensors:
    """The tensors that have a gradient, in the order of a backward pass: each output, then the weights of its layer."""
    names = {p: name for name, p in weights(model).items()}
    wanted: Tensors = {}
    for name, layer in reversed(list(zip(OUTPUTS[len(model)], model, strict=True))[1:]):
        wanted[name] = found[name]
        wanted |= {names[p]: p for p in layer.parameters()}
    return wanted
