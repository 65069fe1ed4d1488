"""The two ways to a gradient, and the proof that they are one. Knows models and losses; takes no optimizer step."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from worker.trainer.layers import PAIRS, WITH_WEIGHTS
from worker.trainer.losses import Loss


def autograd_gradients(model: nn.Sequential, loss: Loss, x: Tensor, labels: Tensor) -> Tensor:
    """Fill every p.grad by letting PyTorch replay the forward pass backwards."""
    logits = model(x)
    value = loss(logits if logits.dtype != torch.bfloat16 else logits.float(), labels)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
        parameter.grad = gradient  # value.backward() would add to p.grad, a copy more
    return value.detach()


@torch.no_grad()
def manual_gradients(model: nn.Sequential, loss: Loss, x: Tensor, labels: Tensor) -> Tensor:
    """Fill every p.grad with the chain rule written out by hand."""
    saved = []
    for layer in model:
        forward, _ = PAIRS[type(layer)]
        x, kept = forward(layer, x)
        saved.append((layer, kept))
    value, kept = loss.forward(x, labels)
    dout = loss.backward(kept)
    lowest = next(layer for layer in model if isinstance(layer, WITH_WEIGHTS))
    while saved:
        layer, kept = saved.pop()  # lets go of each activation as soon as it is used
        _, backward = PAIRS[type(layer)]
        if layer is lowest:
            backward(layer, dout, kept, needs_dx=False)  # below lies only the data, which learns nothing
            break
        dout = backward(layer, dout, kept)
    return value


Gradients = Callable[[nn.Sequential, Loss, Tensor, Tensor], Tensor]

GRADIENTS: dict[str, Gradients] = {"autograd": autograd_gradients, "manual": manual_gradients}


# --- the check --------------------------------------------------------------------------------------------------------

TOLERANCE = 1e-9  # float64 keeps 16 digits; two right ways differ in the last few of them, a wrong one in the first
SMALLEST_SCALE = 1e-3  # p - 1 of a well-learnt example loses its digits: below this size, errors count absolutely


def gradient_check(model: nn.Sequential, loss: Loss, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """Compare both ways on one batch, on float64 copies: the caller's model, gradients and random state stay untouched.

    A parameter's relative error is normwise: max|manual - autograd| / max|autograd|, since single entries may cancel to
    zero. An error that is not finite fails, and is reported as the largest float (JSON knows no infinity).
    """
    by_hand, by_autograd = _float64_twin(model), _float64_twin(model)
    x = x.double()
    manual_loss = manual_gradients(by_hand, loss, x, labels)
    with torch.enable_grad():
        autograd_loss = autograd_gradients(by_autograd, loss, x, labels)

    pairs = zip(by_hand.named_parameters(), by_autograd.parameters(), strict=True)
    parameters = {name: _compare(manual, autograd) for (name, manual), autograd in pairs}
    worst = max(entry["max_relative_error"] for entry in parameters.values())
    loss_difference = _finite(abs(manual_loss - autograd_loss).item())
    return {
        "passed": worst <= TOLERANCE and loss_difference <= TOLERANCE * max(1.0, abs(autograd_loss.item())),
        "dtype": "float64",
        "tolerance": TOLERANCE,
        "max_relative_error": worst,
        "max_absolute_error": max(entry["max_absolute_error"] for entry in parameters.values()),
        "loss_difference": loss_difference,
        "batch_size": len(labels),
        "parameters": parameters,
    }


def _float64_twin(model: nn.Sequential) -> nn.Sequential:
    twin = copy.deepcopy(model).double()
    twin.zero_grad(set_to_none=True)
    return twin


def _compare(manual: nn.Parameter, autograd: nn.Parameter) -> dict[str, Any]:
    expected = autograd.grad if autograd.grad is not None else torch.zeros_like(autograd)
    found = (
        manual.grad if manual.grad is not None else torch.full_like(manual, math.nan)
    )  # forgotten: as wrong as can be
    errors = (found - expected).abs()
    worst = errors.argmax()  # a NaN counts as the largest
    absolute = errors.flatten()[worst].item()
    scale = max(expected.abs().max().item(), SMALLEST_SCALE)
    return {
        "shape": list(manual.shape),
        "max_absolute_error": _finite(absolute),
        "max_relative_error": _finite(absolute / scale),
        "worst_index": [int(i) for i in torch.unravel_index(worst, manual.shape)],
    }


def _finite(error: float) -> float:
    return error if math.isfinite(error) else sys.float_info.max
