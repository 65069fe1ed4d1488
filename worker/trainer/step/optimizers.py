"""The optimizers: `basic` is written out, the others are PyTorch's. Each reads p.grad, manual or from autograd.

The learning rate is a tensor () on the device of the weights: the schedule writes into it, and a step replayed from a
tape or a CUDA graph reads the new value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from shared.spec import job_spec


class Uncompiled(torch.optim.Optimizer):
    """PyTorch wraps these methods, and each optimizer's `step`, to keep them out of torch.compile. The wrappers import
    torch._dynamo at their first call: 0.6 s and 70 MB for what is not used here. These are the methods themselves."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Sgd(Uncompiled, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class Adam(Uncompiled, torch.optim.Adam):
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(Uncompiled, torch.optim.AdamW):
    step = Adam.step


class Basic(Uncompiled):
    """Stochastic gradient descent without momentum: p -= lr * grad."""

    def __init__(self, params: Iterable[nn.Parameter], lr: Tensor) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.addcmul_(p.grad, group["lr"], value=-1)


# fused=True updates a parameter in one pass over memory, on CUDA and on the CPU. Microseconds per step for
# 784-30-10 on one CPU thread, plain / foreach / fused: SGD 14 / 15 / 15, with momentum 29 / 28 / 17, Adam 88 / 79 / 32.
def build_optimizer(job: job_spec.JobSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The spec's optimizer over all parameters of the model.

    `sgd`: momentum, Nesterov's as in Sutskever et al. 2013, with L2 regularization; `adam`: Kingma and Ba 2015, with L2
    regularization; `adamw`: decoupled weight decay, Loshchilov and Hutter 2019. All are torch.optim's.
    """
    params = list(model.parameters())
    wanted, lr = job.optimizer, torch.tensor(job.lr, device=params[0].device)
    match wanted:
        case job_spec.Basic():
            return Basic(params, lr)
        case job_spec.Sgd():
            return Sgd(
                params, lr, wanted.momentum, weight_decay=wanted.weight_decay, nesterov=wanted.nesterov, fused=True
            )
        case job_spec.Adam() | job_spec.AdamW():
            kind = Adam if isinstance(wanted, job_spec.Adam) else AdamW
            betas = (wanted.betas[0], wanted.betas[1])
            capturable = lr.device.type == "cuda"  # keeps its step count on the device, as a CUDA graph needs it
            return kind(params, lr, betas, wanted.eps, wanted.weight_decay, fused=True, capturable=capturable)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Write the learning rate of the next step into the optimizer's tensors."""
    for group in optimizer.param_groups:
        group["lr"].fill_(lr)
