"""The stages of a linear or two-layer net: every tensor of one batch on its way to the loss and back, made in two ways.

By hand it goes through layers.py and losses.py, as a manual job does. The other way uses none of that: PyTorch's own
functions forward, and autograd back. Both give the same names in the same order:

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

# What each layer gives, by how many there are: flatten and a sum; or flatten, a sum, its activation and another sum.
OUTPUTS = {2: ("x", "logits"), 4: ("x", "hidden", "activation", "logits")}

AXES: dict[str, tuple[str, ...]] = {  # a gradient, named d…, has those of what it belongs to
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
    """W and b of the linear net; W1, b1, W2 and b2 of the two-layer net, from the input up. W (O,I), b (O)."""
    sums = [layer for layer in model if isinstance(layer, nn.Linear)]
    numbers = count(1) if len(sums) > 1 else [""]
    return {
        f"{name}{n}": p
        for n, layer in zip(numbers, sums, strict=False)
        for name, p in (("W", layer.weight), ("b", layer.bias))
    }


@torch.no_grad()
def by_hand(model: nn.Sequential, loss: Loss, x: Tensor, labels: Tensor) -> Tensors:
    """x (N,C,H,W), labels (N). Fills every p.grad on its way back."""
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
    for name, layer, cache in reversed(caches[1:]):  # below the lowest layer lies only the data, which learns nothing
        found[f"d{name}"] = dout
        _, backward = PAIRS[type(layer)]
        dout = backward(layer, dout, cache)
        for p in layer.parameters():
            assert p.grad is not None
            found[f"d{names[p]}"] = p.grad
    return found


def by_autograd(model: nn.Sequential, loss: Loss, x: Tensor, labels: Tensor) -> Tensors:
    """x (N,C,H,W), labels (N). Fills no p.grad."""
    found: Tensors = {}
    with torch.enable_grad():
        for name, layer in zip(OUTPUTS[len(model)], model, strict=True):
            x = F.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
            found[name] = x
        found["softmax"] = x.softmax(1)
        found["losses"] = _losses(loss, x, labels)
        found["loss"] = found["losses"].mean() if loss.reduction == "mean" else found["losses"].sum()
        wanted = _on_the_way_back(model, found)
        gradients = torch.autograd.grad(found["loss"], list(wanted.values()))
    found |= {f"d{name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in found.items()}


def _losses(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    if isinstance(loss, ClampedCrossEntropyLoss):
        return -logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1).clamp(loss.clamp, 1).log()
    return F.cross_entropy(logits, labels, reduction="none")


def _on_the_way_back(model: nn.Sequential, found: Tensors) -> Tensors:
    """What has a gradient, in the order in which a backward pass comes by: each output, then the weights it came of."""
    names = {p: name for name, p in weights(model).items()}
    wanted: Tensors = {}
    for name, layer in reversed(list(zip(OUTPUTS[len(model)], model, strict=True))[1:]):
        wanted[name] = found[name]
        wanted |= {names[p]: p for p in layer.parameters()}
    return wanted
