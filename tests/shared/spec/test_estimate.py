"""The estimate: parameters as in the trainer's models, steps as in its loop, plausible seconds and bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.datasets.catalog import DATASETS, DatasetInfo
from shared.spec.estimate import ZOO, estimate, examples_of, network_cost
from shared.spec.job_spec import JobSpec, Torchvision

DIGITS, MNIST = DATASETS["digits"], DATASETS["mnist"]
COLOURS = replace(MNIST, name="ds_0", shape=(3, 40, 24), classes=("a", "b", "c"))

NETS: list[Any] = [
    "linear",
    "mlp",
    {"type": "mlp", "hidden": [128, 64, 7], "batch_norm": True, "dropout": 0.5},
    "cnn",
    {"type": "cnn", "channels": [8], "kernel": 5, "hidden": []},
    {"type": "cnn", "channels": [3, 5, 7], "kernel": 1, "hidden": [20, 10], "batch_norm": True, "dropout": 0.1},
]


def spec_of(**fields: Any) -> JobSpec:
    return JobSpec.parse({"seed": 1, **fields}, {COLOURS.name: COLOURS, **DATASETS}.get)


@pytest.mark.parametrize("info", [DIGITS, MNIST, COLOURS], ids=lambda info: info.name)
@pytest.mark.parametrize("architecture", NETS, ids=str)
def test_parameters_are_those_of_the_net_that_the_trainer_builds(architecture: Any, info: DatasetInfo) -> None:
    from worker.trainer.nets.architectures import build_model, count_parameters

    spec = spec_of(architecture=architecture, dataset=info.name)
    model = build_model(spec.architecture, info.shape, len(info.classes))
    assert network_cost(spec.architecture, info).parameters == count_parameters(model)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64), (3, 96, 80)], ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_parameters_are_those_of_torchvision_s_net_fitted_to_the_images(name: Any, shape: tuple[int, int, int]) -> None:
    zoo = pytest.importorskip("worker.trainer.nets.torchvision_nets")
    net = zoo.build(name, shape, 3)
    counted = network_cost(Torchvision(name=name), replace(COLOURS, shape=shape)).parameters
    assert counted == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("fields", "train", "evaluated", "steps"),
    [
        ({"epochs": 2}, 1455, 2 * 162 + 180, 2 * 23),
        ({"epochs": 3, "validation": "test", "batch_size": 1617}, 1617, 4 * 180, 3),
        ({"epochs": 1, "batch_size": 65_536}, 1455, 162 + 180, 1),
    ],
    ids=str,
)
def test_steps_are_counted_as_the_loop_makes_them(
    fields: dict[str, Any], train: int, evaluated: int, steps: int
) -> None:
    spec = spec_of(**fields)
    assert examples_of(spec, DIGITS) == (train, evaluated)
    assert estimate(spec, DIGITS, "cpu").steps == steps


def test_more_work_takes_longer_and_a_gpu_takes_less_of_a_large_net() -> None:
    small, large = spec_of(dataset="mnist"), spec_of(dataset="mnist", architecture="cnn")
    one, two = (estimate(spec_of(dataset="mnist", epochs=n), MNIST, "cpu").seconds for n in (10, 20))
    assert 1.5 * one < two < 2 * one
    assert estimate(small, MNIST, "cpu").seconds < estimate(large, MNIST, "cpu").seconds
    zoo = spec_of(dataset="mnist", architecture={"type": "torchvision", "name": "resnet50"})
    assert estimate(zoo, MNIST, "cuda").seconds < estimate(zoo, MNIST, "cpu").seconds / 10


def test_the_speed_of_finished_jobs_outweighs_any_count() -> None:
    found = estimate(spec_of(epochs=100), DIGITS, "cpu", [1.0, 1455.0, 2000.0])
    assert found.seconds == pytest.approx(100, rel=0.02)
    assert "median of 3 finished jobs" in found.basis
    assert "1 finished job " in estimate(spec_of(), DIGITS, "cpu", [5.0]).basis


def test_memory_grows_with_the_optimizer_s_state_the_batch_and_the_data() -> None:
    def memory(**fields: Any) -> int:
        fields = {"dataset": "mnist", "optimizer": "basic", "checkpoint": {"keep_best": False}, **fields}
        return estimate(spec_of(**fields), MNIST, "cpu").memory_bytes

    weights = 4 * 23_860
    assert memory(optimizer="adam") - memory() == 2 * weights
    assert memory(optimizer={"type": "sgd", "momentum": 0.9}) - memory(optimizer="sgd") == weights
    assert memory(checkpoint={"keep_best": True}) - memory() == weights
    assert memory(batch_size=128) - memory(batch_size=64) == 64 * 4 * (784 + 30 + 30 + 10)
    assert memory() > 70_000 * 784 * 4
