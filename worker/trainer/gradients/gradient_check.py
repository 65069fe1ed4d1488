"""Checks manual gradients against autograd and against finite differences, parameter by parameter.

All in float64 and on copies: the caller's model (including running statistics), its gradients and the global random
state are not changed. `gradient_check` returns the table, `verify_step` raises if it fails; the check as a job is in
worker/trainer/gradient_check_job.py. docs/gradients.md derives the tolerances.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.errors import Diverged, GradientCheckFailed
from worker.trainer import seeds
from worker.trainer.gradients.finite_differences import LossSurface
from worker.trainer.gradients.gradient_errors import SMALLEST_SCALE, ParameterErrors, finite
from worker.trainer.gradients.manual_and_autograd import autograd_gradients, manual_gradients
from worker.trainer.gradients.table import ErrorFigures, Table
from worker.trainer.nets.losses import Loss

TOLERANCE = 1e-9  # float64 has 16 digits; two correct ways differ in the last few, a wrong one in the first
SLOPE_TOLERANCE = 1e-6  # a finite difference has 9 to 12 correct digits

Batch = tuple[Tensor, Tensor]  # x (N,C,H,W), labels (N)


@dataclass(frozen=True)
class Sampling:
    """How many elements of each parameter are checked by finite differences in each batch; `generator` draws them."""

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
    """Compare manual gradients with autograd's on each batch and, given a sampling, with finite differences.

    A parameter's relative error is normwise: max|manual - expected| / max|autograd|, since single entries may cancel to
    zero. An error that is not finite fails the check and is reported as the largest float, since JSON has no infinity.
    `parameter_done` is called after the finite differences of each parameter and batch, `check_stop`, which may raise,
    before each finite difference. Raises Diverged if the loss is not finite.
    """
    where = next(model.parameters()).device
    errors = {name: ParameterErrors(p.shape) for name, p in model.named_parameters()}
    batch_sizes: list[int] = []
    loss_difference, losses_agree = 0.0, True
    at_entry = seeds.RngState(where)
    try:
        for x, labels in batches:
            x = x.double()
            by_hand, by_autograd = copy.deepcopy(model).double(), copy.deepcopy(model).double()
            rng_state = seeds.RngState(where)  # restored below, so that dropout draws the same masks
            manual_loss = manual_gradients(by_hand, loss, x, labels).item()
            rng_state.restore()
            with torch.enable_grad():
                autograd_loss = autograd_gradients(by_autograd, loss, x, labels).item()
            if not math.isfinite(autograd_loss):
                detail = (
                    f"the loss is {autograd_loss} in float64: there is nothing to compare; try a smaller init or lr"
                )
                raise Diverged(detail)
            difference = finite(abs(manual_loss - autograd_loss))
            loss_difference = max(loss_difference, difference)
            losses_agree &= difference <= TOLERANCE * max(1.0, abs(autograd_loss))
            batch_sizes.append(len(labels))
            for name, manual, autograd in _pairs(by_hand, by_autograd):
                errors[name].compare_with_autograd(manual.grad, _gradient(autograd))
            if sampling is None:
                continue
            rng_state.restore()
            surface = LossSurface(by_autograd, loss, x, labels)
            # a finite difference is only as exact as the losses that it subtracts
            floor = SMALLEST_SCALE * max(1.0, abs(autograd_loss))
            for name, manual, autograd in _pairs(by_hand, by_autograd):
                slopes = _slopes(surface, autograd, errors[name], sampling, check_stop)
                scale = max(_gradient(autograd).abs().max().item(), floor)
                errors[name].compare_with_slopes(manual.grad, slopes, scale)
                parameter_done()
    finally:
        at_entry.restore()

    table: Table = {
        "passed": losses_agree and all(each.autograd.relative <= TOLERANCE for each in errors.values()),
        "dtype": "float64",
        "tolerance": TOLERANCE,
        "max_relative_error": max(each.autograd.relative for each in errors.values()),
        "max_absolute_error": max(each.autograd.absolute for each in errors.values()),
        "loss_difference": loss_difference,
        "batch_size": max(batch_sizes),
        "batches": len(batch_sizes),
        "parameters": {name: each.to_json(sampling is not None) for name, each in errors.items()},
    }
    if sampling is not None:
        table["passed"] &= all(each.numeric.relative <= SLOPE_TOLERANCE for each in errors.values())
        table["finite_differences"] = {
            "tolerance": SLOPE_TOLERANCE,
            "max_relative_error": max(each.numeric.relative for each in errors.values()),
            "max_absolute_error": max(each.numeric.absolute for each in errors.values()),
            "checked": sum(each.checked for each in errors.values()),
            "skipped": sum(each.skipped for each in errors.values()),
        }
    return table


def _pairs(by_hand: nn.Module, by_autograd: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    for (name, manual), autograd in zip(by_hand.named_parameters(), by_autograd.parameters(), strict=True):
        yield name, manual, autograd


def _gradient(p: nn.Parameter) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


def _slopes(
    surface: LossSurface, p: nn.Parameter, errors: ParameterErrors, sampling: Sampling, check_stop: Callable[[], None]
) -> dict[int, float]:
    """Slopes at random elements of p, by element. Those at a kink are replaced, up to twice as many draws."""
    slopes: dict[int, float] = {}
    weights = p.data.view(-1)
    for element in torch.randperm(p.numel(), generator=sampling.generator)[: 2 * sampling.elements].tolist():
        check_stop()
        slope = surface.slope(weights, element)
        if slope is None:
            errors.skipped += 1
        else:
            errors.checked += 1
            slopes[element] = slope
        if len(slopes) == sampling.elements:
            break
    return slopes


# --- failures ---------------------------------------------------------------------------------------------------------


def verify_step(model: nn.Module, loss: Loss, x: Tensor, labels: Tensor) -> Table:
    """Compare the manual gradients on one batch with autograd's, at the current weights; return the table.

    Called before a step, it draws the same dropout masks as the step. Raises GradientCheckFailed, or Diverged if the
    loss is not finite.
    """
    table = gradient_check(model, loss, [(x, labels)])
    require_passed(table)
    return table


def require_passed(table: Table) -> None:
    """Raise GradientCheckFailed, naming the parameter with the largest error, if the check failed."""
    if not table["passed"]:
        raise GradientCheckFailed(_fault(table), gradient_check=table)


def _fault(table: Table) -> str:
    rows = table["parameters"]
    name = max(rows, key=lambda name: rows[name]["max_relative_error"])
    row = rows[name]
    if row["max_relative_error"] > TOLERANCE:
        return f"manual and autograd gradients differ by {_largest(row)} (relative), most in {name}{row['worst_index']}"
    if "finite_differences" in table and table["finite_differences"]["max_relative_error"] > SLOPE_TOLERANCE:
        name = max(rows, key=lambda name: rows[name]["finite_differences"]["max_relative_error"])
        numeric = rows[name]["finite_differences"]
        where = f"{name}{numeric['worst_index']}"
        return f"manual gradients and finite differences differ by {_largest(numeric)} (relative), most in {where}"
    return f"the manual loss differs from autograd's by {table['loss_difference']:.3g}"


def _largest(errors: ErrorFigures) -> str:
    return f"{errors['max_relative_error']:.3g}"
