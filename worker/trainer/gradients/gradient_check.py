"""The proof that gradients by hand are right: against autograd and against finite differences, parameter by parameter.

All in float64, on copies: the caller's model (running statistics included), its gradients and the global random state
stay as they were. `gradient_check` returns the table, `verify_step` raises where it fails; as a job of its own it is in
worker/trainer/gradient_check_job.py. docs/gradients.md says where the tolerances come from.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import Diverged, GradientCheckFailed
from worker.trainer import seeds
from worker.trainer.gradients.finite_differences import LossSurface
from worker.trainer.gradients.gradient_errors import SMALLEST_SCALE, Line, finite
from worker.trainer.gradients.manual_and_autograd import autograd_gradients, manual_gradients
from worker.trainer.nets.losses import Loss

TOLERANCE = 1e-9  # float64 keeps 16 digits; two right ways differ in the last few of them, a wrong one in the first
SLOPE_TOLERANCE = 1e-6  # a finite difference keeps 9 to 12 digits

Batch = tuple[Tensor, Tensor]
Table = dict[str, Any]


@dataclass(frozen=True)
class Sampling:
    """At how many elements of each parameter finite differences are taken in each batch, and who draws them."""

    elements: int
    generator: torch.Generator


# --- the table --------------------------------------------------------------------------------------------------------


def gradient_check(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    sampling: Sampling | None = None,
    parameter_done: Callable[[], None] = lambda: None,
    check_stop: Callable[[], None] = lambda: None,
) -> Table:
    """Compare gradients by hand with autograd's on each batch and, given a sampling, with finite differences.

    A parameter's relative error is normwise: max|manual - referee| / max|autograd|, since single entries may cancel to
    zero. An error that is not finite fails, and is reported as the largest float (JSON knows no infinity).
    `check_stop` is called before each finite difference, and may raise. Raises Diverged where the loss is not finite.
    """
    where = next(model.parameters()).device
    lines = {name: Line(p.shape) for name, p in model.named_parameters()}
    batch_sizes: list[int] = []
    loss_difference, losses_agree = 0.0, True
    at_entry = seeds.RngState(where)
    try:
        for x, labels in batches:
            x = x.double()
            by_hand, by_autograd = copy.deepcopy(model).double(), copy.deepcopy(model).double()
            rng_state = seeds.RngState(where)  # whoever comes back to it draws the same masks of dropout
            manual_loss = manual_gradients(by_hand, loss, x, labels).item()
            rng_state.restore()
            with torch.enable_grad():
                autograd_loss = autograd_gradients(by_autograd, loss, x, labels).item()
            if not math.isfinite(autograd_loss):
                detail = (
                    f"the loss is {autograd_loss} in float64: there is nothing to compare; try a smaller init or lr"
                )
                raise Diverged(detail)
            apart = finite(abs(manual_loss - autograd_loss))
            loss_difference = max(loss_difference, apart)
            losses_agree &= apart <= TOLERANCE * max(1.0, abs(autograd_loss))
            batch_sizes.append(len(labels))
            for name, manual, autograd in _pairs(by_hand, by_autograd):
                lines[name].against_autograd(manual.grad, _gradient(autograd))
            if sampling is None:
                continue
            rng_state.restore()
            surface = LossSurface(by_autograd, loss, x, labels)
            floor = SMALLEST_SCALE * max(1.0, abs(autograd_loss))  # a difference is as exact as the loss it is taken of
            for name, manual, autograd in _pairs(by_hand, by_autograd):
                slopes = _slopes(surface, autograd, lines[name], sampling, check_stop)
                scale = max(_gradient(autograd).abs().max().item(), floor)
                lines[name].against_slopes(manual.grad, slopes, scale)
                parameter_done()
    finally:
        at_entry.restore()

    table: Table = {
        "passed": losses_agree and all(line.autograd.relative <= TOLERANCE for line in lines.values()),
        "dtype": "float64",
        "tolerance": TOLERANCE,
        "max_relative_error": max(line.autograd.relative for line in lines.values()),
        "max_absolute_error": max(line.autograd.absolute for line in lines.values()),
        "loss_difference": loss_difference,
        "batch_size": max(batch_sizes),
        "batches": len(batch_sizes),
        "parameters": {name: line.to_json(sampling is not None) for name, line in lines.items()},
    }
    if sampling is not None:
        table["passed"] &= all(line.numeric.relative <= SLOPE_TOLERANCE for line in lines.values())
        table["finite_differences"] = {
            "tolerance": SLOPE_TOLERANCE,
            "max_relative_error": max(line.numeric.relative for line in lines.values()),
            "max_absolute_error": max(line.numeric.absolute for line in lines.values()),
            "checked": sum(line.checked for line in lines.values()),
            "skipped": sum(line.skipped for line in lines.values()),
        }
    return table


def _pairs(by_hand: nn.Module, by_autograd: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    for (name, manual), autograd in zip(by_hand.named_parameters(), by_autograd.parameters(), strict=True):
        yield name, manual, autograd


def _gradient(p: nn.Parameter) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


def _slopes(
    surface: LossSurface, p: nn.Parameter, line: Line, sampling: Sampling, check_stop: Callable[[], None]
) -> dict[int, float]:
    """Slopes at drawn elements of p; whoever stands on a kink gives way to the next, for up to twice as many draws."""
    slopes: dict[int, float] = {}
    weights = p.data.view(-1)
    for element in torch.randperm(p.numel(), generator=sampling.generator)[: 2 * sampling.elements].tolist():
        check_stop()
        slope = surface.slope(weights, element)
        if slope is None:
            line.skipped += 1
        else:
            line.checked += 1
            slopes[element] = slope
        if len(slopes) == sampling.elements:
            break
    return slopes


# --- the verdict ------------------------------------------------------------------------------------------------------


def verify_step(model: nn.Module, loss: Loss, x: Tensor, labels: Tensor) -> Table:
    """Hold the hand-written gradients of one step against autograd's, at the weights as they are now.

    Raises GradientCheckFailed. Called before the step, it sees the very masks that the step is about to draw.
    """
    table = gradient_check(model, loss, [(x, labels)])
    require_passed(table)
    return table


def require_passed(table: Table) -> None:
    """Raise GradientCheckFailed with the name of the parameter that is most in the wrong."""
    if not table["passed"]:
        raise GradientCheckFailed(_fault(table), gradient_check=table)


def _fault(table: Table) -> str:
    lines = table["parameters"]
    name = max(lines, key=lambda name: lines[name]["max_relative_error"])
    line = lines[name]
    if line["max_relative_error"] > TOLERANCE:
        return f"manual and autograd gradients differ by {_most(line)} (relative), most in {name}{line['worst_index']}"
    if "finite_differences" in table and table["finite_differences"]["max_relative_error"] > SLOPE_TOLERANCE:
        name = max(lines, key=lambda name: lines[name]["finite_differences"]["max_relative_error"])
        line = lines[name]["finite_differences"]
        where = f"{name}{line['worst_index']}"
        return f"manual gradients and finite differences differ by {_most(line)} (relative), most in {where}"
    return f"the manual loss differs from autograd's by {table['loss_difference']:.3g}"


def _most(line: Table) -> str:
    return f"{line['max_relative_error']:.3g}"
