"""The two ways to a gradient: what both promise, and that one training goes the same way with either."""

import copy

import pytest
import torch
from support.problems import problem
from torch import nn

from shared.spec import job_spec
from worker.trainer.gradients.manual_and_autograd import GRADIENTS, autograd_gradients, manual_gradients
from worker.trainer.nets.losses import CrossEntropyLoss


@pytest.mark.parametrize("way", sorted(GRADIENTS))
def test_both_ways_fill_every_gradient_and_return_a_detached_loss(way):
    model, x, labels = problem(job_spec.Cnn(channels=[2]), dtype=torch.float32)
    value = GRADIENTS[way](model, CrossEntropyLoss(), x, labels)
    assert value.shape == ()
    assert not value.requires_grad
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.shape == p.shape, name
        assert p.grad.dtype == p.dtype, name
        assert p.grad.is_contiguous(), name
        assert not p.grad.requires_grad, name


@pytest.mark.parametrize("architecture", [job_spec.Linear(), job_spec.Mlp(), job_spec.Cnn()], ids=lambda a: a.type)
def test_manual_gradients_leave_no_autograd_graph(architecture, monkeypatch):
    model, x, labels = problem(architecture)
    packed = []

    def refuse(*args, **kwargs):
        raise AssertionError("the manual way called autograd")

    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        manual_gradients(model, CrossEntropyLoss(), x, labels)
        assert not packed
        with pytest.raises(AssertionError, match="called autograd"):
            autograd_gradients(model, CrossEntropyLoss(), x, labels)
    assert packed  # the hooks do see a graph where there is one


# --- a batch of one ---------------------------------------------------------------------------------------------------

NORMALIZED = [job_spec.Mlp(batch_norm=True), job_spec.Cnn(channels=[2], batch_norm=True)]
each_normalized = pytest.mark.parametrize("architecture", NORMALIZED, ids=lambda a: a.type)


@each_normalized
@pytest.mark.parametrize("way", sorted(GRADIENTS))
def test_a_last_batch_of_one_example_trains_a_net_with_batch_norm(way, architecture):
    model, x, labels = problem(architecture, n=5)
    fill_gradients = GRADIENTS[way]
    fill_gradients(model, CrossEntropyLoss(), x[:4], labels[:4])
    statistics = copy.deepcopy(dict(model.named_buffers()))
    model.zero_grad()
    fill_gradients(model, CrossEntropyLoss(), x[4:], labels[4:])
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if name.endswith("weight"))
    assert all(torch.equal(b, statistics[name]) for name, b in model.named_buffers())  # one example has no spread
    assert all(layer.training for layer in model.children())


@each_normalized
def test_both_ways_take_a_batch_of_one_alike(architecture):
    model, x, labels = problem(architecture, n=1)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(
        manual_gradients(model, CrossEntropyLoss(), x, labels), autograd_gradients(twin, CrossEntropyLoss(), x, labels)
    )
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")


# --- one training, both ways, in float32 ------------------------------------------------------------------------------


def trained(way: str, architecture: job_spec.Architecture, steps: int = 20) -> nn.Module:
    model, x, labels = problem(architecture, n=64, dtype=torch.float32)
    torch.manual_seed(3)
    for _ in range(steps):
        model.zero_grad()
        GRADIENTS[way](model, CrossEntropyLoss(), x, labels)
        for p in model.parameters():
            p.data -= 0.1 * p.grad
    return model


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_with_dropout_both_ways_end_with_the_same_bits(activation):
    architecture = job_spec.Mlp(hidden=[20, 10], activation=activation, dropout=0.3)
    manual, autograd = (trained(way, architecture).state_dict() for way in ("manual", "autograd"))
    for name, tensor in manual.items():
        assert torch.equal(tensor, autograd[name]), name


@pytest.mark.parametrize(
    "architecture",
    [
        job_spec.Mlp(hidden=[20, 10], batch_norm=True),
        job_spec.Mlp(hidden=[20, 10], batch_norm=True, dropout=0.3, activation="gelu"),
        job_spec.Cnn(channels=[4], batch_norm=True, dropout=0.3, activation="tanh"),
    ],
    ids=["batch norm", "batch norm and dropout", "convolution too"],
)
def test_with_batch_norm_both_ways_end_within_float32_s_precision(architecture):
    """PyTorch's batch norm backward adds up in one fused pass, in another order than sums written out by hand."""
    manual, autograd = (trained(way, architecture).state_dict() for way in ("manual", "autograd"))
    for name, tensor in manual.items():
        torch.testing.assert_close(
            tensor, autograd[name], rtol=1e-4, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
