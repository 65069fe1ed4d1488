"""Estimates a job's cost before it is queued: exact parameters and steps, seconds and bytes to an order of magnitude.

Counts the operations of a forward pass and the values that it stores. A training step costs three forward passes, as
backward takes twice the operations of forward. Does not import torch; tests compare the parameter counts with the
models that the trainer builds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from shared.datasets.catalog import DatasetInfo
from shared.spec.job_spec import (
    SMALL_IMAGE,
    Adam,
    AdamW,
    Architecture,
    Cnn,
    Fraction,
    JobSpec,
    Linear,
    Mlp,
    Sgd,
    Torchvision,
)

FLOAT_BYTES = 4
TRAIN_PASSES = 3  # in units of a forward pass: forward, gradients of the inputs, gradients of the weights


@dataclass(frozen=True)
class Pace:
    """Measured speed of a device on models of this size; on the CPU, of one thread."""

    flops: float  # per second
    bytes: float  # per second, of weights and optimizer state
    step_seconds: float  # constant overhead of a step
    module_seconds: float  # additional overhead for each module of the model


PACES = {
    "cpu": Pace(flops=4e10, bytes=8e9, step_seconds=1e-4, module_seconds=1e-5),
    "cuda": Pace(flops=2e13, bytes=1e12, step_seconds=3e-4, module_seconds=3e-5),
}
START_SECONDS = 0.5  # data, first step, files


@dataclass(frozen=True)
class Net:
    """The cost of a network. `flops` and `cached` (the number of values stored for backward) are per example."""

    parameters: int
    flops: float
    cached: float
    modules: int


@dataclass(frozen=True)
class Estimate:
    """`basis` is a text that says how `seconds` was derived."""

    parameters: int
    steps: int
    seconds: float
    memory_bytes: int
    basis: str


def estimate(spec: JobSpec, info: DatasetInfo, device: str, speeds: Sequence[float] = ()) -> Estimate:
    """Estimate the job on `device` (cpu or cuda).

    `speeds` are the examples per second of similar finished jobs; if there are any, their median replaces the counts.
    """
    net = network_cost(spec.architecture, info)
    train, evaluated = examples_of(spec, info)
    steps = spec.epochs * -(-train // spec.batch_size)
    if speeds:
        per_second = statistics.median(speeds)
        done = "1 finished job" if len(speeds) == 1 else f"{len(speeds)} finished jobs"
        basis = f"{per_second:.0f} examples per second, the median of {done} with this model, dataset and batch size"
        training = spec.epochs * train / per_second
    else:
        training = steps * _step_seconds(spec, net, PACES[device])
        basis = "counted operations and bytes, at the measured speed"
    forward = evaluated * net.flops / PACES[device].flops
    return Estimate(
        parameters=net.parameters,
        steps=steps,
        seconds=START_SECONDS + training + forward,
        memory_bytes=memory_bytes(spec, info, net),
        basis=f"{basis} on {device}; memory: weights, gradients, optimizer state, activations and data",
    )


def examples_of(spec: JobSpec, info: DatasetInfo) -> tuple[int, int]:
    """The number of training examples per epoch, and of examples evaluated over the whole job."""
    if isinstance(spec.validation, Fraction):
        held_out = round(info.train_examples * spec.validation.fraction)
        return info.train_examples - held_out, spec.epochs * held_out + info.test_examples
    return info.train_examples, (spec.epochs + 1) * info.test_examples


def _step_seconds(spec: JobSpec, net: Net, pace: Pace) -> float:
    computing = TRAIN_PASSES * net.flops * spec.batch_size / pace.flops
    moving = net.parameters * FLOAT_BYTES * (2 + _optimizer_copies(spec)) / pace.bytes
    return pace.step_seconds + net.modules * pace.module_seconds + computing + moving


def memory_bytes(spec: JobSpec, info: DatasetInfo, net: Net) -> int:
    """Bytes of weights, gradients, optimizer state, the best weights if kept, the data and one batch's activations."""
    copies = 2 + _optimizer_copies(spec) + (1 if spec.checkpoint.keep_best else 0)
    channels, height, width = info.shape
    pixels = channels * height * width
    data = (info.train_examples + info.test_examples) * pixels
    activations = spec.batch_size * (net.cached + pixels)
    return round(FLOAT_BYTES * (copies * net.parameters + data + activations))


def _optimizer_copies(spec: JobSpec) -> int:
    """The optimizer's state, in multiples of the weights' size."""
    if isinstance(spec.optimizer, Adam | AdamW):
        return 2
    return 1 if isinstance(spec.optimizer, Sgd) and spec.optimizer.momentum else 0


# --- the cost of a network --------------------------------------------------------------------------------------------


def network_cost(architecture: Architecture, info: DatasetInfo) -> Net:
    """The cost of this architecture on images of this dataset."""
    if isinstance(architecture, Torchvision):
        return _torchvision_cost(architecture.name, info)
    parameters, flops, cached, modules = 0, 0.0, 0.0, 1
    channels, height, width = info.shape
    extras = _extra_layers(architecture)
    if isinstance(architecture, Cnn):
        for c_in, c_out in pairwise([channels, *architecture.channels]):
            weights = architecture.kernel**2 * c_in * c_out
            parameters += weights + c_out + (2 * c_out if architecture.batch_norm else 0)
            flops += 2 * weights * height * width
            cached += c_out * height * width * (2 + architecture.batch_norm)
            modules += 3 + architecture.batch_norm
            channels, height, width = c_out, height // 2, width // 2
            cached += channels * height * width
    features = channels * height * width
    hidden = [] if isinstance(architecture, Linear) else architecture.hidden
    for n_in, n_out in pairwise([features, *hidden]):
        batch_norm = not isinstance(architecture, Linear) and architecture.batch_norm
        parameters += n_in * n_out + n_out + (2 * n_out if batch_norm else 0)
        flops += 2 * n_in * n_out
        cached += n_out * (1 + extras)
        modules += 1 + extras
        features = n_out
    classes = len(info.classes)
    head = features * classes
    return Net(parameters + head + classes, flops + 2 * head, cached + classes, modules + 1)


def _extra_layers(architecture: Linear | Mlp | Cnn) -> int:
    """How many layers follow each hidden one: activation, batch normalization, dropout."""
    if isinstance(architecture, Linear):
        return 0
    return 1 + architecture.batch_norm + (architecture.dropout > 0)


@dataclass(frozen=True)
class ZooNet:
    """A torchvision model as published: 3 channels of 224 x 224 pixels, 1000 classes."""

    parameters: int
    flops: float
    cached: float
    modules: int
    first: int  # weights of the first convolution, per channel of the image
    head: int  # input features of the last layer


ZOO_CHANNELS, ZOO_CLASSES, ZOO_SIDE = 3, 1000, 224

ZOO = {
    "resnet18": ZooNet(11_689_512, 3.63e9, 5.4e6, 68, first=64 * 7 * 7, head=512),
    "resnet34": ZooNet(21_797_672, 7.33e9, 7.9e6, 116, first=64 * 7 * 7, head=512),
    "resnet50": ZooNet(25_557_032, 8.18e9, 21.4e6, 151, first=64 * 7 * 7, head=2048),
    "mobilenet_v3_small": ZooNet(2_542_856, 0.113e9, 4.1e6, 209, first=16 * 3 * 3, head=1024),
    "efficientnet_b0": ZooNet(5_288_548, 0.772e9, 22.1e6, 337, first=32 * 3 * 3, head=1280),
    "convnext_tiny": ZooNet(28_589_128, 8.91e9, 27.3e6, 203, first=96 * 4 * 4, head=768),
    "vit_b_16": ZooNet(86_567_656, 33.7e9, 25.8e6, 152, first=768 * 16 * 16, head=768),
}
# For small images a ResNet has a smaller first convolution and leaves out the first two halvings, so that all later
# layers process 4 x 4 times as many pixels.
SMALL_RESNET_FIRST = 64 * 3 * 3
SMALL_RESNET_WORK = 16
PATCH = 16  # side of a patch of vit_b_16 in pixels; each patch has a position embedding of `head` parameters


def _torchvision_cost(name: str, info: DatasetInfo) -> Net:
    """Adapts the published numbers to the dataset's channels and classes, and scales the operations by the pixels."""
    net, (channels, height, width) = ZOO[name], info.shape
    small = max(height, width) <= SMALL_IMAGE
    parameters = net.parameters + (len(info.classes) - ZOO_CLASSES) * (net.head + 1)
    first, work = net.first, 1
    if name.startswith("resnet"):
        if small:
            first, work = SMALL_RESNET_FIRST, SMALL_RESNET_WORK
    else:
        height, width = max(height, SMALL_IMAGE), max(width, SMALL_IMAGE)
    if name == "vit_b_16":
        height = width = -(-max(height, width) // PATCH) * PATCH
        parameters += net.head * ((height // PATCH) ** 2 - (ZOO_SIDE // PATCH) ** 2)
    parameters += channels * first - ZOO_CHANNELS * net.first
    share = work * height * width / ZOO_SIDE**2
    return Net(parameters, net.flops * share, net.cached * share, net.modules)
