"""The device of a run, and the settings that make its results reproducible to the bit."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from shared.errors import TrainingError
from worker.trainer import device

CPU = torch.device("cpu")
WAITING_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: see tests/gpu")


def test_the_cpu_is_taken_where_it_is_asked_for():
    assert device.choose("cpu") == CPU


@without_cuda
def test_auto_is_the_cpu_where_there_is_no_gpu():
    assert device.choose("auto") == CPU


@without_cuda
def test_a_job_for_cuda_does_not_fall_back_to_the_cpu():
    with pytest.raises(TrainingError, match="no CUDA device"):
        device.choose("cuda")


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]


def test_setting_up_fixes_every_random_stream_by_the_seed():
    def drawn(seed):
        device.set_up(seed, CPU, 1)
        return draws()

    first = drawn(7)
    draws()
    assert drawn(7) == first
    assert all(mine != other for mine, other in zip(first, drawn(8), strict=True))


def test_a_step_gets_as_many_threads_as_it_is_worth_and_no_more_than_there_are():
    assert device.threads_for(1e5, most=8) == 1
    assert device.threads_for(3.5e8, most=8) == 3
    assert device.threads_for(1e12, most=8) == 8


@pytest.mark.long
@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [({}, "PASSIVE", "5000"), ({"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300000"}, "ACTIVE", "300000")],
)
def test_threads_that_wait_spin_for_a_moment_and_then_sleep(given, policy, spins):
    """OpenMP reads the settings once, when torch is loaded; it prints what it uses. An operator's own settings hold."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING_SETTINGS}
    command = [sys.executable, "-P", "-c", "import worker.trainer.preload"]
    printed = subprocess.run(
        command,
        env={**environment, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in printed.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in printed.stderr


@pytest.mark.parametrize("deterministic", [True, False])
def test_setting_up_fixes_threads_and_kernels(deterministic):
    device.set_up(7, CPU, 2, deterministic)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    found = device.environment(CPU)
    assert (found["threads"], found["deterministic"]) == (2, deterministic)


def test_the_environment_of_a_result_is_plain_json():
    found = device.environment(CPU)
    assert {"torch", "python", "threads", "gpu", "gradq"} <= set(found)
    assert found["gpu"] is None
    assert json.loads(json.dumps(found)) == found
    assert {type(value) for value in found.values()} <= {
        str,
        int,
        bool,
        type(None),
    }  # a subclass would bring its module
