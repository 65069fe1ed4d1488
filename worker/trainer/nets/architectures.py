"""The networks: from the spec's words to layers, and from a generator to weights. Picks no device."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Generator, nn

from shared.spec import job_spec
from worker.trainer.nets import torchvision_nets
from worker.trainer.nets.layers import BATCH_NORMS, Linear

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


def build_model(architecture: job_spec.Architecture, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A net from images of (channels, height, width) to logits; `initialize` or a state dict gives the weights.

    An nn.Sequential of layers that have a hand-written backward pass, or one of torchvision's nets.
    """
    # PyTorch fills each new layer from the global generator; we give that generator back as it was. (Building on the
    # "meta" device would draw nothing, but its first use costs a process 0.2 to 0.35 s.)
    with torch.random.fork_rng(devices=[]):
        if isinstance(architecture, job_spec.Torchvision):
            return torchvision_nets.build(architecture.name, input_shape, n_classes)
        return nn.Sequential(*_layers(architecture, input_shape, n_classes))


def _layers(
    architecture: job_spec.Linear | job_spec.Mlp | job_spec.Cnn, input_shape: tuple[int, int, int], n_classes: int
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels, height, width = input_shape
    if isinstance(architecture, job_spec.Cnn):
        kernel = architecture.kernel
        for c_in, c_out in pairwise([channels, *architecture.channels]):
            layers.append(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2))
            if architecture.batch_norm:
                layers.append(nn.BatchNorm2d(c_out))
            layers += [_activation(architecture), nn.MaxPool2d(2)]
            channels, height, width = c_out, height // 2, width // 2
    layers.append(nn.Flatten())
    features = channels * height * width
    if not isinstance(architecture, job_spec.Linear):
        for hidden in architecture.hidden:
            layers.append(Linear(features, hidden))
            if architecture.batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(_activation(architecture))
            if architecture.dropout:
                layers.append(nn.Dropout(architecture.dropout))
            features = hidden
    layers.append(Linear(features, n_classes))
    return layers


def _activation(architecture: job_spec.Mlp | job_spec.Cnn) -> nn.Module:
    return ACTIVATIONS[architecture.activation]()


@torch.no_grad()
def initialize(model: nn.Module, init: job_spec.Init, generator: Generator) -> None:
    """Fill every weight and bias, drawing from `generator` alone: the same generator state, the same weights.

    Batch normalization starts at weight 1 and bias 0 with fresh statistics whatever the init says. For torchvision's
    nets `pytorch` is torchvision's own init; the others then fill the weights of its linear and convolutional layers.
    """
    if not isinstance(model, nn.Sequential):
        torchvision_nets.initialize(model, generator)
        if isinstance(init, job_spec.PytorchInit):
            return
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _initialize_layer(layer, init, generator)
        elif isinstance(layer, BATCH_NORMS):
            layer.reset_parameters()


def _initialize_layer(layer: nn.Linear | nn.Conv2d, init: job_spec.Init, generator: Generator) -> None:
    weight, bias = layer.weight, layer.bias
    if bias is not None:  # a convolution before batch normalization needs none
        nn.init.zeros_(bias)
    match init:
        case job_spec.PytorchInit():  # what reset_parameters does: both uniform within ±1/sqrt(inputs of one output)
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            if bias is not None:
                bound = 1 / math.sqrt(weight[0].numel())
                nn.init.uniform_(bias, -bound, bound, generator=generator)
        case job_spec.NormalInit():
            nn.init.normal_(weight, 0.0, init.std, generator=generator)
            if bias is not None:
                nn.init.normal_(bias, 0.0, init.std, generator=generator)
        case job_spec.KaimingInit():
            nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        case job_spec.XavierInit():
            nn.init.xavier_uniform_(weight, generator=generator)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
