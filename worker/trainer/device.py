"""Where a run computes, and what makes it compute the same bits again. CUDA when there is a device, else the CPU."""

from __future__ import annotations

import os
import platform
import random
from typing import Any

import numpy as np
import torch

from shared.errors import TrainingError
from shared.version import VERSION
from worker.trainer import seeds

FLOPS_PER_THREAD = 1e7  # of one training step: some 100 microseconds of matrix products


def choose(wanted: str) -> torch.device:
    """`auto`: the first visible GPU, else the CPU."""
    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if wanted == "cuda":
        raise TrainingError("the job asks for cuda and no CUDA device can be used here")
    return torch.device("cpu")


def threads_for(flops: float, most: int) -> int:
    """How many threads a step of so many floating point operations is worth: a pure function, as the bits depend on it.

    Threads meet several times a step, and wait for each other spinning: on small matrices that costs more than it
    saves, and where a neighbour holds one of the cores, many times more. An epoch of MNIST's small mlp takes 0.11 s
    with one thread, 0.10 with two on a quiet machine, and up to 4 with two on a busy one.
    """
    return max(1, min(most, int(flops / FLOPS_PER_THREAD)))


def set_up(seed: int, device: torch.device, threads: int, deterministic: bool = True) -> None:
    """Fix the thread count, the random streams and, if asked for, deterministic kernels."""
    torch.set_num_threads(threads)  # sums are split by thread: the count is part of the result
    random.seed(seeds.derive(seed, "python"))
    np.random.seed(seeds.derive(seed, "numpy") % 2**32)
    torch.manual_seed(seeds.derive(seed, "torch"))
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a pass over memory
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32: manual and autograd are compared
        torch.backends.cudnn.allow_tf32 = False


def environment(device: torch.device) -> dict[str, Any]:
    """What the bits of a result depend on, beside the spec."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "gradq": VERSION,
        "torch": str(torch.__version__),  # a class of torch's: whoever unpickled it would import torch
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
