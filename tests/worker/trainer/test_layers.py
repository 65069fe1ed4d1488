"""Every layer of layers.py against autograd, alone, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from worker.trainer import architectures
from worker.trainer.layers import PAIRS, Linear

IMAGES = (3, 2, 6, 6)
CASES = {
    "linear": (Linear(7, 4), (5, 7)),
    "linear, one example": (Linear(7, 4), (1, 7)),
    "relu": (nn.ReLU(), (5, 7)),
    "tanh": (nn.Tanh(), (5, 7)),
    "sigmoid": (nn.Sigmoid(), (5, 7)),
    "gelu": (nn.GELU(), (5, 7)),
    "conv 1x1": (nn.Conv2d(2, 4, 1), IMAGES),
    "conv 3x3": (nn.Conv2d(2, 4, 3, padding=1), IMAGES),
    "conv 5x5, oblong": (nn.Conv2d(2, 4, 5, padding=2), (3, 2, 6, 5)),
    "conv 7x7, wider than the image": (nn.Conv2d(2, 4, 7, padding=3), (3, 2, 3, 3)),
    "conv, one example": (nn.Conv2d(1, 3, 3, padding=1), (1, 1, 4, 4)),
    "maxpool, even": (nn.MaxPool2d(2), IMAGES),
    "maxpool, odd": (nn.MaxPool2d(2), (3, 2, 7, 5)),
    "flatten": (nn.Flatten(), IMAGES),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    torch.manual_seed(7)
    layer, shape = CASES[request.param]
    return copy.deepcopy(layer).double(), torch.randn(shape, dtype=torch.float64)


def by_hand(layer: nn.Module, x: Tensor, dout: Tensor, **options: bool) -> tuple[Tensor, Tensor]:
    forward, backward = PAIRS[type(layer)]
    with torch.no_grad():
        out, kept = forward(layer, x)
        return out, backward(layer, dout, kept, **options)


def assert_equals_autograd(layer: nn.Module, x: Tensor) -> None:
    twin, leaf = copy.deepcopy(layer), x.clone().requires_grad_()
    expected = twin(leaf)
    dout = torch.randn_like(expected)
    expected.backward(dout)

    out, dx = by_hand(layer, x, dout)
    torch.testing.assert_close(out, expected.detach(), msg=lambda text: f"out: {text}")
    torch.testing.assert_close(dx, leaf.grad, msg=lambda text: f"dx: {text}")
    for (name, p), q in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_backward_equals_autograd(case):
    assert_equals_autograd(*case)


def test_backward_leaves_its_inputs_as_they_were(case):
    layer, x = case
    dout = torch.randn_like(layer(x).detach())
    x_before, dout_before = x.clone(), dout.clone()
    by_hand(layer, x, dout)
    assert torch.equal(x, x_before)
    assert torch.equal(dout, dout_before)


def test_backward_assigns_the_gradient_and_adds_nothing_to_an_old_one(case):
    layer, x = case
    dout = torch.randn_like(layer(x).detach())
    by_hand(layer, x, dout)
    first = [p.grad.clone() for p in layer.parameters()]
    by_hand(layer, x, dout)
    assert all(torch.equal(p.grad, g) for p, g in zip(layer.parameters(), first, strict=True))


@pytest.mark.parametrize("name", ["linear", "conv 3x3"])
def test_the_lowest_layer_skips_dx_and_keeps_its_gradients(name):
    layer, shape = CASES[name]
    layer = copy.deepcopy(layer).double()
    x = torch.randn(shape, dtype=torch.float64)
    dout = torch.randn_like(layer(x).detach())
    _, dx = by_hand(layer, x, dout)
    whole = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad(set_to_none=True)
    _, nothing = by_hand(layer, x, dout, needs_dx=False)
    assert dx is not None
    assert nothing is None
    assert all(torch.equal(p.grad, g) for p, g in zip(layer.parameters(), whole, strict=True))


def test_relu_passes_nothing_at_zero():
    x = torch.tensor([[-1.0, -0.0, 0.0, 1e-300, 2.0]], dtype=torch.float64)
    _, dx = by_hand(nn.ReLU(), x, torch.full_like(x, 3.0))
    assert dx.tolist() == [[0, 0, 0, 3, 3]]
    assert_equals_autograd(nn.ReLU(), x)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 3)])
def test_pooling_sends_the_gradient_of_a_tie_where_autograd_does(size):
    torch.manual_seed(3)
    x = torch.randint(0, 2, (4, 3, *size)).double()  # zeros and ones: nearly every window is a tie
    assert_equals_autograd(nn.MaxPool2d(2), x)
    assert_equals_autograd(nn.MaxPool2d(2), torch.zeros_like(x))


def test_pooling_sends_nothing_to_the_odd_last_row_and_column():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    _, dx = by_hand(nn.MaxPool2d(2), x, torch.ones(1, 1, 2, 2))
    assert dx.sum() == 4
    assert not dx[..., 4, :].any()
    assert not dx[..., :, 4].any()


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU])
def test_activations_stay_finite_far_out(activation):
    x = torch.tensor([[-1e4, -40.0, 40.0, 1e4]])
    out, dx = by_hand(activation(), x, torch.ones_like(x))
    assert torch.isfinite(out).all()
    assert torch.isfinite(dx).all()


def test_every_layer_that_an_architecture_uses_has_a_pair():
    built = {Linear, nn.Conv2d, nn.MaxPool2d, nn.Flatten, *architectures.ACTIVATIONS.values()}
    assert built == set(PAIRS)
