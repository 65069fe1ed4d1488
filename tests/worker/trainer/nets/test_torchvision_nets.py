"""torchvision's models on small images: adapted, seeded, deterministic, and rebuilt from their recipe."""

import copy
import json
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shared.spec import job_spec
from worker.trainer.gradients.manual_and_autograd import autograd_gradients
from worker.trainer.nets import torchvision_nets
from worker.trainer.nets.architectures import build_model, count_parameters, initialize
from worker.trainer.nets.import_torchvision import import_torchvision
from worker.trainer.nets.losses import CrossEntropyLoss

RGB, DIGITS, MNIST = (3, 32, 32), (1, 8, 8), (1, 28, 28)
NAMES = get_args(job_spec.TorchvisionName)
IN_EVERY_RUN = ("resnet18", "mobilenet_v3_small")  # the others take seconds each
each_network = pytest.mark.parametrize(
    "name", [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.long) for name in NAMES]
)
PARAMETERS = {  # on 32x32 RGB with 10 classes
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "mobilenet_v3_small": 1_528_106,
    "efficientnet_b0": 4_020_358,
    "convnext_tiny": 27_827_818,
    "vit_b_16": 85_668_106,
}
SMALLEST = "mobilenet_v3_small"


def net(name, shape=RGB, seed=5, init=None):
    model = build_model(job_spec.Torchvision(name=name), shape, 10)
    initialize(model, init or job_spec.PytorchInit(), torch.Generator().manual_seed(seed))
    return model


def one_step(model, shape, n=4):
    """One step of SGD; returns the loss before it."""
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.randn(n, *shape, generator=generator), torch.arange(n) % 10
    torch.manual_seed(3)  # dropout and stochastic depth draw from the global stream
    loss = autograd_gradients(model, CrossEntropyLoss(), x, labels)
    with torch.no_grad():
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            p -= 0.01 * p.grad
    return loss


@each_network
def test_a_step_on_small_colour_images_is_deterministic(name):
    torch.use_deterministic_algorithms(True)  # raises for an operation that is not
    model = net(name)
    twin = copy.deepcopy(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_parameters(model) == PARAMETERS[name]
    losses = one_step(model, RGB), one_step(twin, RGB)
    assert torch.isfinite(losses[0])
    assert torch.equal(*losses)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[key]), key
    assert any(not torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in model.modules())


@each_network
def test_digits_of_8_pixels_train_too_and_a_last_batch_of_one(name):
    model = net(name, DIGITS)
    assert torch.isfinite(one_step(model, DIGITS))
    assert torch.isfinite(one_step(model, DIGITS, n=1))
    with torch.no_grad():
        assert model.eval()(torch.randn(2, *DIGITS)).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vit_b_16"])
def test_weights_are_a_function_of_the_generator_and_leave_the_global_stream_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = net(name, DIGITS).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = net(name, DIGITS).state_dict(), net(name, DIGITS, seed=6).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())


@pytest.mark.parametrize("name", ["resnet18", SMALLEST])
def test_where_nothing_had_to_be_changed_the_net_is_torchvision_s_to_the_bit(name):
    torch.manual_seed(4)
    theirs = import_torchvision().models.get_model(name, weights=None, num_classes=7)
    torch.manual_seed(4)
    ours = torchvision_nets.build(name, (3, 96, 80), 7)
    assert ours.recipe == {"name": name, "arguments": {"num_classes": 7}, "replace": {}, "enlarge": None}
    for (key, tensor), (their_key, expected) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert key == their_key
        assert torch.equal(tensor, expected), key
    x = torch.randn(2, 3, 96, 80)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))  # the mean sums in another order


@pytest.mark.parametrize(("name", "shape"), [("resnet18", MNIST), (SMALLEST, MNIST), ("convnext_tiny", DIGITS)])
def test_torchvision_alone_rebuilds_the_net_from_its_recipe(name, shape):
    model = net(name, shape).eval()
    recipe = json.loads(json.dumps(model.recipe))
    rebuilt = import_torchvision().models.get_model(recipe["name"], weights=None, **recipe["arguments"])
    for path, layer in recipe["replace"].items():
        rebuilt.set_submodule(path, getattr(nn, layer["type"])(**layer["arguments"]))
    rebuilt.load_state_dict(model.state_dict())
    x = torch.randn(2, *shape)
    seen = F.interpolate(x, recipe["enlarge"], mode="bilinear") if recipe["enlarge"] else x
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(seen), model(x))


@pytest.mark.parametrize(
    ("name", "shape", "enlarge"),
    [
        ("resnet18", DIGITS, None),
        ("resnet50", (3, 96, 96), None),
        (SMALLEST, MNIST, [64, 64]),
        ("efficientnet_b0", (3, 32, 80), [64, 80]),
        ("convnext_tiny", (3, 64, 64), None),
        ("vit_b_16", DIGITS, [64, 64]),
        ("vit_b_16", (3, 96, 96), None),
        ("vit_b_16", (3, 70, 100), [112, 112]),
    ],
)
def test_images_are_enlarged_only_where_the_net_needs_it(name, shape, enlarge):
    assert torchvision_nets.recipe(name, shape, 10)["enlarge"] == enlarge


def test_a_resnet_begins_as_for_cifar_up_to_64_pixels():
    small, large = (torchvision_nets.recipe("resnet18", (3, side, side), 10)["replace"] for side in (64, 65))
    assert small["conv1"]["arguments"]["kernel_size"] == 3
    assert small["conv1"]["arguments"]["stride"] == 1
    assert small["maxpool"]["type"] == "Identity"
    assert large == {}


@pytest.mark.parametrize(
    "init",
    [
        job_spec.NormalInit(std=0.5),
        *(pytest.param(init, marks=pytest.mark.long) for init in (job_spec.KaimingInit(), job_spec.XavierInit())),
    ],
    ids=lambda init: init.type,
)
def test_other_inits_fill_the_linear_and_convolutional_weights_and_leave_batch_norm_fresh(init):
    model, again, plain = (net(SMALLEST, MNIST, init=wanted) for wanted in (init, init, None))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    for (path, layer), own in zip(model.named_modules(), plain.modules(), strict=True):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            assert not torch.equal(layer.weight, own.weight), path
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all(), path
            assert not layer.bias.any(), path
            assert (layer.running_var == 1).all(), path
