"""A run killed by SIGKILL at any step and resumed ends with the weights and the curve of an uninterrupted one."""

import random
import signal

import pytest
from support.mortal import live

from shared.events import Log
from shared.spec.job_spec import JobSpec

MLP = {"type": "mlp", "hidden": [12]}
CNN = {"type": "cnn", "channels": [4], "hidden": [8]}
DROPPING = {"type": "mlp", "hidden": [16], "dropout": 0.3, "batch_norm": True, "activation": "gelu"}
BATCH_NORMALIZED = {
    "type": "cnn",
    "channels": [3],
    "hidden": [10],
    "batch_norm": True,
    "dropout": 0.2,
    "activation": "tanh",
}
MOMENTUM = {"type": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
COSINE = {"type": "cosine", "warmup_epochs": 1}
STEP = {"type": "step", "every_epochs": 1, "gamma": 0.5}
MOVED = [{"type": "shift", "pixels": 1}, {"type": "rotate", "degrees": 15}]

CONFIGURATIONS = [
    {"architecture": "linear", "gradients": "manual", "optimizer": "basic", "schedule": "constant"},
    {"architecture": "linear", "gradients": "autograd", "optimizer": "adam", "schedule": COSINE, "lr": 0.01},
    {"architecture": "linear", "gradients": "manual", "optimizer": MOMENTUM, "schedule": "onecycle"},
    {"architecture": MLP, "gradients": "autograd", "optimizer": "basic", "schedule": STEP},
    {"architecture": MLP, "gradients": "manual", "optimizer": "adamw", "schedule": COSINE, "lr": 0.01},
    {"architecture": MLP, "gradients": "autograd", "optimizer": MOMENTUM, "schedule": "constant", "augment": MOVED},
    {"architecture": DROPPING, "gradients": "manual", "optimizer": "sgd", "schedule": "onecycle"},
    {"architecture": DROPPING, "gradients": "autograd", "optimizer": "adam", "schedule": STEP, "lr": 0.01},
    {"architecture": CNN, "gradients": "manual", "optimizer": "adam", "schedule": "constant", "lr": 0.01},
    {"architecture": CNN, "gradients": "autograd", "optimizer": "sgd", "schedule": COSINE, "augment": ["crop", "flip"]},
    {
        "architecture": BATCH_NORMALIZED,
        "gradients": "manual",
        "optimizer": MOMENTUM,
        "schedule": STEP,
        "augment": MOVED,
    },
    {
        "architecture": BATCH_NORMALIZED,
        "gradients": "autograd",
        "optimizer": "adamw",
        "schedule": "onecycle",
        "lr": 0.01,
    },
]
BATCH, EPOCHS = 32, 2
STEPS = EPOCHS * 46  # 1455 examples to train on
BY_THE_CLOCK = "examples_per_second"  # the only figure that may differ between two runs


def curve(points):
    """As the log keeps it: a point reported twice is kept once; asserts that both are equal."""
    found = {}
    for point in points:
        values = {name: value for name, value in point.values.items() if name != BY_THE_CLOCK}
        assert found.setdefault((point.series, point.step), (point.epoch, values)) == (point.epoch, values)
    return found


@pytest.mark.parametrize(
    "number", [*range(4), *(pytest.param(n, marks=pytest.mark.long) for n in range(4, len(CONFIGURATIONS)))]
)
def test_a_run_that_is_killed_three_times_ends_with_the_same_weights_and_curve(number, tmp_path):
    fields = {**CONFIGURATIONS[number], "batch_size": BATCH, "epochs": EPOCHS, "seed": 100 + number}
    spec = JobSpec.parse({**fields, "checkpoint": {"every_seconds": 0.002}})
    whole = live(spec, tmp_path / "whole")
    assert whole.exitcode == 0

    deaths = sorted(random.Random(number).sample(range(2, STEPS), 3))
    points, reported = [], -1
    for step in deaths:
        life = live(spec, tmp_path / "killed", die_at=step, reported_step=reported)
        assert life.exitcode == -signal.SIGKILL, f"killed at {deaths}"
        points += life.points
        reported = max((p.step for p in points), default=-1)
    last = live(spec, tmp_path / "killed", reported_step=reported)
    assert last.exitcode == 0
    assert any("resumed from step" in e.message for e in last.events if isinstance(e, Log))
    assert last.weights_sha256 == whole.weights_sha256, f"killed at {deaths}"
    assert curve(points + last.points) == curve(whole.points), f"killed at {deaths}"
