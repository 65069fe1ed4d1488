"""From the spec to layers and weights."""

import math

import pytest
import torch
from torch import nn

from shared.spec import job_spec
from worker.trainer.nets.architectures import build_model, count_parameters, initialize
from worker.trainer.nets.layers import Linear

MNIST = (1, 28, 28)
INITS = [job_spec.PytorchInit(), job_spec.NormalInit(std=0.5), job_spec.KaimingInit(), job_spec.XavierInit()]
each_init = pytest.mark.parametrize("init", INITS, ids=lambda init: init.type)


def weights(init, seed=5, architecture=None):
    model = build_model(architecture or job_spec.Cnn(channels=[4, 8], hidden=[50]), (3, 9, 8), 10)
    initialize(model, init, torch.Generator().manual_seed(seed))
    return dict(model.named_parameters())


def test_linear_is_the_article_s_net_of_7850_parameters():
    model = build_model(job_spec.Linear(), MNIST, 10)
    assert [type(layer) for layer in model.children()] == [nn.Flatten, Linear]
    assert count_parameters(model) == 7_850


def test_mlp_is_the_article_s_net_of_23860_parameters():
    model = build_model(job_spec.Mlp(), MNIST, 10)
    assert [type(layer) for layer in model.children()] == [nn.Flatten, Linear, nn.ReLU, Linear]
    assert [count_parameters(layer) for layer in model.children()] == [0, 23_550, 0, 310]


def test_cnn_stacks_convolution_activation_and_pooling_then_fully_connected_layers():
    model = build_model(job_spec.Cnn(channels=[4, 6], kernel=5, hidden=[12], activation="gelu"), (3, 9, 8), 7)
    block = [nn.Conv2d, nn.GELU, nn.MaxPool2d]
    assert [type(layer) for layer in model.children()] == [*block, *block, nn.Flatten, Linear, nn.GELU, Linear]
    initialize(model, job_spec.PytorchInit(), torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 9, 8)
    assert model[0](x).shape == (2, 4, 9, 8)  # a convolution keeps the size, odd or even
    assert model(x).shape == (2, 7)


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)])
def test_activation_is_the_one_asked_for(activation, kind):
    assert isinstance(build_model(job_spec.Mlp(activation=activation), MNIST, 10)[2], kind)


@each_init
def test_weights_are_a_function_of_the_generator(init):
    first, again, other = weights(init), weights(init), weights(init, seed=6)
    for name, p in first.items():
        assert torch.equal(p, again[name]), name
        assert p.ndim == 1 or not torch.equal(p, other[name]), name


@each_init
def test_building_and_initializing_leave_the_global_random_state_unchanged(init):
    before = torch.get_rng_state()
    first = weights(init)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12345)  # nor do they depend on it
    assert all(torch.equal(p, q) for p, q in zip(first.values(), weights(init).values(), strict=True))


def test_initialized_weights_still_ask_for_gradients():
    assert all(p.requires_grad and p.grad_fn is None for p in weights(job_spec.PytorchInit()).values())


@pytest.mark.parametrize("layer", [Linear(40, 30), nn.Conv2d(3, 8, 5, padding=2)])
def test_pytorch_init_draws_what_torch_itself_would_draw(layer):
    torch.manual_seed(9)
    layer.reset_parameters()
    expected = [p.detach().clone() for p in layer.parameters()]
    initialize(nn.Sequential(layer), job_spec.PytorchInit(), torch.Generator().manual_seed(9))
    for p, q in zip(layer.parameters(), expected, strict=True):
        assert torch.equal(p, q)


def test_pytorch_init_fills_its_bounds():
    for name, p in weights(job_spec.PytorchInit()).items():
        fan_in = {"0": 27, "3": 36, "7": 32, "9": 50}[name.split(".")[0]]
        assert p.abs().max() <= 1 / math.sqrt(fan_in), name
        assert p.ndim == 1 or p.abs().max() > 0.9 / math.sqrt(fan_in), name


def test_normal_init_draws_weights_and_biases_with_the_given_std():
    drawn = weights(job_spec.NormalInit(std=0.5), architecture=job_spec.Mlp(hidden=[3000]))
    for name in ("1.weight", "1.bias", "3.weight"):
        assert drawn[name].std().item() == pytest.approx(0.5, rel=0.05), name
        assert abs(drawn[name].mean().item()) < 0.05, name


def test_kaiming_and_xavier_scale_by_the_layer_and_start_biases_at_zero():
    for init, std in (
        (job_spec.KaimingInit(), math.sqrt(2 / 216)),
        (job_spec.XavierInit(), math.sqrt(2 / (216 + 500))),
    ):
        drawn = weights(init, architecture=job_spec.Mlp(hidden=[500]))
        assert drawn["1.weight"].std().item() == pytest.approx(std, rel=0.02), init.type
        assert not drawn["1.bias"].any(), init.type


@pytest.mark.parametrize(
    "architecture", [job_spec.Mlp(batch_norm=True), job_spec.Cnn(batch_norm=True)], ids=lambda a: a.type
)
@each_init
def test_batch_norm_starts_at_weight_1_bias_0_and_fresh_statistics_whatever_the_init(architecture, init):
    model = build_model(architecture, MNIST, 10)
    norms = [layer for layer in model.children() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (1 if architecture.type == "mlp" else 3)
    for layer in norms:
        for tensor in layer.state_dict().values():
            tensor.fill_(7)  # a net that has been trained before
    initialize(model, init, torch.Generator().manual_seed(0))
    for layer in norms:
        assert (layer.weight == 1).all()
        assert not layer.bias.any()
        assert not layer.running_mean.any()
        assert (layer.running_var == 1).all()
        assert layer.num_batches_tracked == 0


def test_batch_norm_stands_before_the_activation_and_dropout_behind_it():
    model = build_model(job_spec.Cnn(channels=[4], hidden=[12], batch_norm=True, dropout=0.5), MNIST, 10)
    convolution = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    connected = [Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in model.children()] == [*convolution, nn.Flatten, *connected, Linear]
