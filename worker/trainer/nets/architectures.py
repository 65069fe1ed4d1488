"""Builds a spec's network and draws its initial weights. Does not choose a device."""

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
    """The model from images (N,C,H,W) of `input_shape` (C,H,W) to logits (N,K), not yet initialized.

    An nn.Sequential of layers that have a manual backward pass, or one of torchvision's models.
    """
    # PyTorch initializes each new layer from the global generator, whose state is restored here. (The "meta" device
    # would draw nothing, but its first use in a process costs 0.2 to 0.35 s.)
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
    """Fill every weight and bias, drawing from `generator` alone: the same generator state gives the same weights.

    Weights of linear and convolutional layers, with fan_in inputs and fan_out outputs of a unit:

    - `pytorch`: uniform within ±1/sqrt(fan_in), weights and biases, as `reset_parameters` of nn.Linear and nn.Conv2d
    - `normal`: normal of the given std, weights and biases
    - `kaiming`: normal of std sqrt(2/fan_in), biases 0 (He et al. 2015)
    - `xavier`: uniform within ±sqrt(6/(fan_in + fan_out)), biases 0 (Glorot and Bengio 2010)

    Batch normalization starts with weight 1, bias 0 and fresh statistics for every init. For torchvision's models
    `pytorch` is torchvision's own init; the others then replace the weights of its linear and convolutional layers.
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
    if bias is not None:  # a convolution before batch normalization has none
        nn.init.zeros_(bias)
    match init:
        case job_spec.PytorchInit():  # with a = sqrt(5) the bound is 1/sqrt(fan_in)
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
