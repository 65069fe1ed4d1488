"""The optimizers, stepped on gradients drawn from a seed."""

import copy

import pytest
import torch
from torch import nn

from shared.spec import job_spec
from worker.trainer.nets.architectures import build_model, initialize
from worker.trainer.step.optimizers import Basic, build_optimizer

OPTIMIZERS = [
    job_spec.Basic(),
    job_spec.Sgd(),
    job_spec.Sgd(momentum=0.9, nesterov=True, weight_decay=0.01),
    job_spec.Adam(betas=[0.8, 0.95], eps=1e-6, weight_decay=0.02),
    job_spec.AdamW(betas=[0.8, 0.95], eps=1e-6, weight_decay=0.02),
]
each_optimizer = pytest.mark.parametrize("wanted", OPTIMIZERS, ids=lambda o: f"{o.type}-{len(o.model_fields_set)}")


def model() -> nn.Module:
    built = build_model(job_spec.Cnn(channels=[3], hidden=[30]), (1, 9, 9), 10)
    initialize(built, job_spec.PytorchInit(), torch.Generator().manual_seed(1))
    return built


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, n: int = 20) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(n):
        optimizer.zero_grad(set_to_none=True)
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in net.parameters()]


def built(wanted, lr: float = 0.03) -> list[torch.Tensor]:
    net = model()
    return steps(net, build_optimizer(job_spec.JobSpec(optimizer=wanted, lr=lr), net))


def same_bits(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_basic_equals_sgd_without_momentum_bit_for_bit(options):
    net = model()
    assert same_bits(built(job_spec.Basic()), steps(net, torch.optim.SGD(net.parameters(), lr=0.03, **options)))


def test_basic_subtracts_the_learning_rate_times_the_gradient():
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    p.grad = torch.tensor([2.0, -4.0])
    frozen = nn.Parameter(torch.tensor([5.0]))  # without a gradient: left alone
    Basic([p, frozen], lr=torch.tensor(0.5)).step()
    assert p.tolist() == [0, 4]
    assert frozen.tolist() == [5]


@each_optimizer
def test_options_of_the_spec_arrive(wanted):
    net = model()
    options = wanted.model_dump(exclude={"type"})
    if wanted.type == "basic":
        reference = torch.optim.SGD(net.parameters(), lr=0.03)
    else:
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[wanted.type]
        reference = kind(net.parameters(), lr=0.03, foreach=False, fused=False, **options)
    for p, q in zip(built(wanted), steps(net, reference), strict=True):
        torch.testing.assert_close(p, q)


@each_optimizer
def test_two_runs_end_with_the_same_bits(wanted):
    assert same_bits(built(wanted), built(wanted))


@each_optimizer
def test_a_step_moves_every_parameter(wanted):
    assert not any(torch.equal(p, q) for p, q in zip(built(wanted), model().parameters(), strict=True))


@each_optimizer
def test_a_run_split_by_a_saved_state_ends_with_the_same_bits(wanted):
    whole, first = model(), model()
    job = job_spec.JobSpec(optimizer=wanted, lr=0.03)
    optimizer = build_optimizer(job, whole)
    steps(whole, optimizer)
    steps(whole, optimizer)

    before = build_optimizer(job, first)
    steps(first, before)
    second = copy.deepcopy(first)
    after = build_optimizer(job, second)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert same_bits(steps(second, after), [p.detach() for p in whole.parameters()])
