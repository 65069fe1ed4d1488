"""torchvision's models in numpy: traced in the trainer, computed by the file that is a job's predict.py."""

import json
from typing import get_args

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from shared import inference
from shared.inference import Model, Refused
from shared.spec.job_spec import TorchvisionName
from worker.trainer.exports.operations import operations_of
from worker.trainer.nets import torchvision_nets

QUICK = ("resnet18", "mobilenet_v3_small")


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine, small products take twenty times as long if BLAS's threads wait for each other."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


each_network = pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in get_args(TorchvisionName)],
)


def with_weights(net):
    """Random weights everywhere: fresh ones are 0 in some heads, and running statistics are 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2, generator=generator)
            nn.init.uniform_(layer.running_var, 0.5, 1.5, generator=generator)
            nn.init.normal_(layer.weight, mean=1, std=0.1, generator=generator)
    return net


def in_numpy(net, shape):
    operations = json.loads(json.dumps(operations_of(net, shape)))
    description = {
        "architecture": {"type": "torchvision", "name": "the net"},
        "layers": None,
        "operations": operations,
        "input_shape": shape,
        "classes": [str(i) for i in range(10)],
        "normalization": {"mean": [0.25] * shape[0], "std": [0.5] * shape[0], "white": 255.0},
    }
    return Model(description, {name: tensor.numpy() for name, tensor in net.state_dict().items()})


def assert_agrees(net, shape, n=3):
    model = in_numpy(net, shape)
    pixels = torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net((pixels - 0.25) / 0.5).numpy()
    assert np.abs(expected).max() > 0
    found = model.logits(pixels.numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    return model


@each_network
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 70, 76)])
def test_numpy_answers_as_torch_does(name, shape):
    """Enlarged and not, of one channel and of three, square and not, a resnet as for CIFAR and as for ImageNet."""
    model = assert_agrees(with_weights(torchvision_nets.build(name, shape, 10)).eval(), shape)
    assert model.cost.multiplications > 1e6


class Net(nn.Module):
    """One convolution, then what a test adds, then a mean and a linear layer."""

    def __init__(self, stem, middle=None):
        super().__init__()
        self.stem, self.head = stem, nn.Linear(4, 10)
        self.middle = middle or nn.Identity()

    def forward(self, x):
        return self.head(self.middle(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 2},
        {"stride": 3, "padding": 2, "bias": False},
        {"groups": 4, "padding": 1},
        {"groups": 4, "stride": 2, "bias": False},
        {"padding": 1},
    ],
    ids=str,
)
def test_a_convolution_of_any_stride_padding_and_of_single_channels(arguments):
    torch.manual_seed(2)
    assert_agrees(Net(nn.Conv2d(4, 4, 3, **arguments)).eval(), (4, 9, 8))


@pytest.mark.parametrize(
    "middle",
    [
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Hardswish(), nn.SiLU(), nn.Hardsigmoid()),
        nn.Sequential(nn.GELU(), nn.Sigmoid(), nn.ReLU(), nn.Dropout(0.5)),
    ],
    ids=str,
)
def test_each_layer_between(middle):
    torch.manual_seed(2)
    assert_agrees(with_weights(Net(nn.Conv2d(2, 4, 3), middle)).eval(), (2, 9, 8))


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (Net(nn.Conv2d(4, 4, 3, groups=2)), "Conv2d"),
        (Net(nn.Conv2d(4, 4, 3, dilation=2)), "Conv2d"),
        (Net(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "Conv2d"),
        (Net(nn.Conv2d(4, 4, 3, stride=(1, 2))), "Conv2d"),
        (Net(nn.Conv2d(4, 4, 3), nn.AvgPool2d(2)), "AvgPool2d"),
        (Net(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2, ceil_mode=True)), "MaxPool2d"),
    ],
)
def test_what_numpy_does_not_compute_is_named(net, named):
    with pytest.raises(TypeError, match=named):
        operations_of(net, (4, 9, 8))


def test_images_in_chunks_are_answered_as_at_once(monkeypatch):
    model = in_numpy(with_weights(torchvision_nets.build("resnet18", (1, 8, 8), 10)), (1, 8, 8))
    pixels = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    whole = model.logits(pixels)
    monkeypatch.setattr(inference, "CHUNK_FLOATS", 100_000)
    np.testing.assert_allclose(model.logits(pixels), whole, atol=1e-5 * np.abs(whole).max())


def test_an_operation_that_a_later_version_wrote_is_refused_by_name():
    net = Net(nn.Conv2d(4, 4, 3))
    later = [*operations_of(net, (4, 9, 8)), {"op": "Fold", "inputs": [1], "weights": None, "arguments": {}}]
    description = {"layers": None, "operations": later, "architecture": {"type": "torchvision", "name": "x"}}
    with pytest.raises(Refused, match="an operation Fold"):
        Model(description, {name: tensor.numpy() for name, tensor in net.state_dict().items()})
