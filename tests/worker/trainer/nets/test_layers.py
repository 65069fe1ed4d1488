"""Every single layer of layers.py against autograd, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from worker.trainer.nets import architectures
from worker.trainer.nets.layers import PAIRS, Linear

IMAGES = (3, 2, 6, 6)


def trained(layer: nn.BatchNorm1d | nn.BatchNorm2d, training: bool = True) -> nn.Module:
    """Batch normalization in mid-training: weight, bias and running statistics are not the initial ones."""
    generator = torch.Generator().manual_seed(5)
    for tensor in (layer.weight.data, layer.running_var):
        tensor.uniform_(0.5, 2.0, generator=generator)
    for tensor in (layer.bias.data, layer.running_mean):
        tensor.normal_(generator=generator)
    return layer.train(training)


CASES = {
    "linear": (Linear(7, 4), (5, 7)),
    "linear, one example": (Linear(7, 4), (1, 7)),
    "batch norm": (trained(nn.BatchNorm1d(7)), (5, 7)),
    "batch norm, two examples": (trained(nn.BatchNorm1d(7)), (2, 7)),
    "batch norm of images": (trained(nn.BatchNorm2d(2)), IMAGES),
    "batch norm of one image": (trained(nn.BatchNorm2d(2)), (1, 2, 3, 4)),
    "batch norm, evaluation": (trained(nn.BatchNorm1d(7), training=False), (5, 7)),
    "batch norm of images, evaluation": (trained(nn.BatchNorm2d(2), training=False), IMAGES),
    "dropout": (nn.Dropout(0.3), (5, 7)),
    "dropout of nothing": (nn.Dropout(0.0), (5, 7)),
    "dropout, evaluation": (nn.Dropout(0.3).eval(), (5, 7)),
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
        out, cache = forward(layer, x)
        return out, backward(layer, dout, cache, **options)


def assert_equals_autograd(layer: nn.Module, x: Tensor) -> None:
    twin, leaf = copy.deepcopy(layer), x.clone().requires_grad_()
    dout = torch.randn_like(copy.deepcopy(layer)(x).detach())
    torch.manual_seed(11)  # dropout draws its mask
    expected = twin(leaf)
    expected.backward(dout)

    torch.manual_seed(11)
    out, dx = by_hand(layer, x, dout)
    torch.testing.assert_close(out, expected.detach(), msg=lambda text: f"out: {text}")
    torch.testing.assert_close(dx, leaf.grad, msg=lambda text: f"dx: {text}")
    for (name, p), q in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, statistic), expected in zip(layer.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(statistic, expected), name


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


@pytest.mark.parametrize(("layer", "shape"), [(nn.BatchNorm1d(4), (9, 4)), (nn.BatchNorm2d(4), (3, 4, 5, 6))])
def test_batch_norm_forward_and_running_statistics_are_pytorch_s_to_the_bit(layer, shape):
    twin = copy.deepcopy(layer)
    torch.manual_seed(3)
    for _ in range(5):  # float32, as in a training
        x = 3 * torch.randn(shape) + 2
        out, _ = by_hand(layer, x, torch.ones(shape))
        assert torch.equal(out, twin(x))
    assert layer.num_batches_tracked == 5
    for (name, statistic), expected in zip(layer.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(statistic, expected), name


def test_batch_norm_in_evaluation_moves_no_statistic():
    layer = trained(nn.BatchNorm1d(3), training=False)
    before = copy.deepcopy(dict(layer.named_buffers()))
    by_hand(layer, torch.randn(4, 3), torch.ones(4, 3))
    assert all(torch.equal(statistic, before[name]) for name, statistic in layer.named_buffers())


@pytest.mark.parametrize(("layer", "shape"), [(nn.BatchNorm1d(4), (1, 4)), (nn.BatchNorm2d(4), (1, 4, 1, 1))])
def test_batch_norm_refuses_a_single_value_as_pytorch_does(layer, shape):
    x = torch.randn(shape)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as ours:
        by_hand(layer, x, x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as theirs:
        layer(x)
    assert str(ours.value) == str(theirs.value)


def test_batch_norm_passes_no_gradient_to_a_shift_or_a_stretch_of_a_channel():
    torch.manual_seed(3)
    x = torch.randn(6, 4, dtype=torch.float64)
    _, dx = by_hand(nn.BatchNorm1d(4, eps=0.0).double(), x, torch.randn_like(x))
    torch.testing.assert_close(dx.sum(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close((dx * x).sum(0), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_draws_the_mask_that_nn_dropout_draws(dtype):
    layer, x = nn.Dropout(0.3), torch.randn(64, 30, dtype=dtype)
    torch.manual_seed(3)
    expected, state = layer(x), torch.get_rng_state()
    torch.manual_seed(3)
    out, dx = by_hand(layer, x, torch.ones_like(x))
    assert torch.equal(out, expected)
    assert torch.equal(torch.get_rng_state(), state)
    cache = dx != 0
    assert 0.6 < cache.double().mean() < 0.8
    assert (dx[cache] == dx.max()).all()  # 1 / 0.7: kept values are scaled up
    assert dx.max().item() == pytest.approx(1 / 0.7)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU, nn.ReLU])
def test_activations_stay_finite_far_out(activation):
    x = torch.tensor([[-1e4, -40.0, 40.0, 1e4]])
    out, dx = by_hand(activation(), x, torch.ones_like(x))
    assert torch.isfinite(out).all()
    assert torch.isfinite(dx).all()


def test_every_layer_that_an_architecture_uses_has_a_pair():
    built = {Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.MaxPool2d, nn.Flatten}
    built |= {*architectures.ACTIVATIONS.values()}
    assert built == set(PAIRS)
