"""Both ways give one gradient: on drawn architectures, and the check catches planted faults and names the parameter."""

import copy
import random

import pytest
import torch
from torch import nn

from shared import spec
from worker.trainer import layers
from worker.trainer.architectures import build_model, initialize
from worker.trainer.checks import gradient_check
from worker.trainer.gradients import GRADIENTS, autograd_gradients, manual_gradients
from worker.trainer.losses import CrossEntropyLoss, build_loss

ACTIVATIONS = ["relu", "tanh", "sigmoid", "gelu"]


def problem(architecture, shape=(1, 8, 8), n_classes=5, n=6, seed=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    model = build_model(architecture, shape, n_classes)
    initialize(model, spec.PytorchInit(), generator)
    x = torch.randn(n, *shape, generator=generator)
    labels = torch.randint(0, n_classes, (n,), generator=generator)
    return model.to(dtype), x.to(dtype), labels


def drawn(seed: int):
    """A random architecture, loss and batch."""
    rng = random.Random(seed)
    shape = (rng.randint(1, 3), rng.randint(4, 9), rng.randint(4, 9))
    activation = rng.choice(ACTIVATIONS)
    hidden = [rng.randint(1, 9) for _ in range(rng.randint(1, 3))]
    architecture = [
        spec.Linear(),
        spec.Mlp(hidden=hidden, activation=activation),
        spec.Cnn(
            channels=[rng.randint(1, 4) for _ in range(rng.randint(1, 2))],
            kernel=rng.choice([1, 3, 5, 7]),
            hidden=hidden[1:],
            activation=activation,
        ),
    ][seed % 3]
    reduction = rng.choice(["mean", "sum"])
    loss = rng.choice(
        [
            spec.CrossEntropy(reduction=reduction),
            spec.ClampedCrossEntropy(reduction=reduction, clamp=rng.choice([1e-10, 0.2])),
        ]
    )
    n = rng.choice([1, 2, 5, 16])
    return (*problem(architecture, shape, rng.randint(2, 10), n, seed), build_loss(loss))


@pytest.mark.parametrize("seed", range(50))
def test_manual_gradients_equal_autograd(seed):
    model, x, labels, loss = drawn(seed)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(manual_gradients(model, loss, x, labels), autograd_gradients(twin, loss, x, labels))
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")
    assert gradient_check(model, loss, x, labels)["passed"]


def test_the_drawn_problems_are_not_trivial():
    problems = [drawn(seed) for seed in range(50)]
    assert {type(layer) for model, *_ in problems for layer in model} == set(layers.PAIRS)
    moving = 0
    for model, x, labels, loss in problems:
        autograd_gradients(model, loss, x, labels)
        moving += all(p.grad.any() for p in model.parameters())
    assert moving >= 35  # a few die in a narrow ReLU or below the clamp


@pytest.mark.parametrize("way", sorted(GRADIENTS))
def test_both_ways_fill_every_gradient_and_return_a_detached_loss(way):
    model, x, labels = problem(spec.Cnn(channels=[2]), dtype=torch.float32)
    value = GRADIENTS[way](model, CrossEntropyLoss(), x, labels)
    assert value.shape == ()
    assert not value.requires_grad
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.shape == p.shape, name
        assert p.grad.dtype == p.dtype, name
        assert p.grad.is_contiguous(), name
        assert not p.grad.requires_grad, name


@pytest.mark.parametrize("architecture", [spec.Linear(), spec.Mlp(), spec.Cnn()], ids=lambda a: a.type)
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


# --- the check --------------------------------------------------------------------------------------------------------


def test_check_reports_every_parameter():
    model, x, labels = problem(spec.Mlp(hidden=[3]), dtype=torch.float32)
    report = gradient_check(model, CrossEntropyLoss(), x, labels)
    assert report["passed"]
    assert report["dtype"] == "float64"
    assert report["tolerance"] == 1e-9
    assert report["batch_size"] == 6
    assert report["max_relative_error"] < 1e-12
    assert {name: entry["shape"] for name, entry in report["parameters"].items()} == {
        "1.weight": [3, 64],
        "1.bias": [3],
        "3.weight": [5, 3],
        "3.bias": [5],
    }
    assert all(len(entry["worst_index"]) == len(entry["shape"]) for entry in report["parameters"].values())


def test_check_leaves_model_gradients_and_random_state_untouched():
    model, x, labels = problem(spec.Cnn(channels=[2]), dtype=torch.float32)
    autograd_gradients(model, CrossEntropyLoss(), x, labels)
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    random_state = torch.get_rng_state()
    with torch.no_grad():  # also inside an evaluation
        gradient_check(model, CrossEntropyLoss(), x, labels)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_check_passes_where_the_batch_is_learnt_so_well_that_p_minus_1_loses_its_digits():
    model, x, _ = problem(spec.Linear(), n_classes=2, n=1)
    labels = model(x).argmax(1)
    gap = model(x).max() - model(x).min()
    for p in model.parameters():
        p.data *= 19 / gap  # p of the true class is 1 - 5.6e-9: half of the digits are left of p - 1
    for wanted in (spec.CrossEntropy(), spec.ClampedCrossEntropy(reduction="sum")):
        assert gradient_check(model, build_loss(wanted), x, labels)["passed"]


def plant(monkeypatch, kind, backward):
    monkeypatch.setitem(layers.PAIRS, kind, (layers.PAIRS[kind][0], backward))


def wrong(report) -> set[str]:
    return {name for name, e in report["parameters"].items() if e["max_relative_error"] > report["tolerance"]}


def test_check_catches_a_dropped_bias_sum(monkeypatch):
    def linear_backward(layer, dout, x, needs_dx=True):
        dx = layers.linear_backward(layer, dout, x, needs_dx)
        layer.bias.grad = dout[0].clone()  # the first example alone
        return dx

    plant(monkeypatch, nn.Linear, linear_backward)
    report = gradient_check(*_with_loss(spec.Mlp(hidden=[8])))
    assert not report["passed"]
    assert wrong(report) == {"1.bias", "3.bias"}


def test_check_catches_a_relu_masked_from_the_wrong_side(monkeypatch):
    plant(monkeypatch, nn.ReLU, lambda layer, dout, out: dout * (out <= 0))
    report = gradient_check(*_with_loss(spec.Mlp(hidden=[8])))
    assert not report["passed"]
    assert wrong(report) == {"1.weight", "1.bias"}  # what lies below the ReLU, and nothing above it


def test_check_catches_a_missing_division_by_the_batch_size(monkeypatch):
    right = CrossEntropyLoss.backward
    monkeypatch.setattr(CrossEntropyLoss, "backward", lambda self, kept: right(self, kept) * len(kept[0]))
    report = gradient_check(*_with_loss(spec.Mlp(hidden=[8])))
    assert not report["passed"]
    assert wrong(report) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert report["loss_difference"] < 1e-12  # the loss itself was right


def test_check_catches_a_single_wrong_entry_and_says_where(monkeypatch):
    def conv2d_backward(layer, dout, x, needs_dx=True):
        dx = layers.conv2d_backward(layer, dout, x, needs_dx)
        layer.weight.grad[1, 0, 2, 1] += 1e-4
        return dx

    plant(monkeypatch, nn.Conv2d, conv2d_backward)
    report = gradient_check(*_with_loss(spec.Cnn(channels=[3], hidden=[])))
    assert wrong(report) == {"0.weight"}
    assert report["parameters"]["0.weight"]["worst_index"] == [1, 0, 2, 1]
    assert report["parameters"]["0.weight"]["max_absolute_error"] == pytest.approx(1e-4)


@pytest.mark.parametrize("fault", ["forgotten", "nan"])
def test_check_fails_on_a_gradient_that_is_missing_or_not_a_number(monkeypatch, fault):
    def linear_backward(layer, dout, x, needs_dx=True):
        dx = layers.linear_backward(layer, dout, x, needs_dx)
        layer.bias.grad = None if fault == "forgotten" else torch.full_like(layer.bias, float("nan"))
        return dx

    plant(monkeypatch, nn.Linear, linear_backward)
    report = gradient_check(*_with_loss(spec.Linear()))
    assert not report["passed"]
    assert wrong(report) == {"1.bias"}


def test_check_catches_a_wrong_loss_value(monkeypatch):
    forward = CrossEntropyLoss.forward
    monkeypatch.setattr(CrossEntropyLoss, "forward", lambda *args: (forward(*args)[0] + 1e-3, forward(*args)[1]))
    report = gradient_check(*_with_loss(spec.Linear()))
    assert not report["passed"]
    assert wrong(report) == set()
    assert report["loss_difference"] == pytest.approx(1e-3)


def _with_loss(architecture):
    model, x, labels = problem(architecture)
    return model, CrossEntropyLoss(), x, labels
