"""The learning rate of each step as a pure function of its number: a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable

from shared.spec import job_spec

RISE, FIRST_DIVISOR, LAST_DIVISOR = 0.3, 25.0, 25.0 * 1e4  # torch.optim.lr_scheduler.OneCycleLR's defaults

Rate = Callable[[int], float]  # number of updates already made -> learning rate of the next one


def build_schedule(job: job_spec.JobSpec, steps_per_epoch: int) -> Rate:
    """The spec's schedule: a function from the number of steps done (0 for the first) to the next step's learning rate.

    `constant`: lr. `step`: lr times gamma once per `every_epochs`. `cosine`: linear warm-up, then SGDR's cosine without
    restarts (Loshchilov and Hutter 2017). `onecycle`: the 1cycle policy (Smith 2018) for the learning rate alone.
    """
    lr, wanted, total = job.lr, job.schedule, job.epochs * steps_per_epoch
    match wanted:
        case job_spec.ConstantSchedule():
            return lambda step: lr
        case job_spec.StepSchedule():
            return lambda step: lr * wanted.gamma ** (step // steps_per_epoch // wanted.every_epochs)
        case job_spec.CosineSchedule():
            warm_up = round(wanted.warmup_epochs * steps_per_epoch)
            return lambda step: lr * _cosine(step, warm_up, total)
        case job_spec.OneCycleSchedule():
            return lambda step: _one_cycle(lr, step, total)


def _cosine(step: int, warm_up: int, total: int) -> float:
    """The factor of lr: linear from 1/warm_up to 1, then (1 + cos πt) / 2 (Loshchilov and Hutter 2017, eq. 5)."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def _one_cycle(lr: float, step: int, total: int) -> float:
    """From lr/25 to lr, then to lr/250 000, each half a cosine, as PyTorch's OneCycleLR (Smith and Topin 2018)."""
    peak, end = max(RISE * total - 1, 0.0), max(total - 1, 1)
    if step <= peak:
        return _between(lr / FIRST_DIVISOR, lr, step / peak if peak else 1.0)
    return _between(lr, lr / LAST_DIVISOR, min((step - peak) / (end - peak), 1.0))


def _between(start: float, end: float, share: float) -> float:
    """The value at `share` (0 to 1) of half a cosine from `start` to `end`."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
