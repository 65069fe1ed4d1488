"""The device of a run, and the settings that make its results reproducible to the bit."""

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

FLOPS_PER_THREAD = 1e8  # of one training step: about a millisecond of matrix products


def choose(requested: str) -> torch.device:
    """The device for `auto` (the first visible GPU, else the CPU), `cpu` or `cuda`.

    Raises TrainingError if `cuda` is requested and there is none.
    """
    if requested != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if requested == "cuda":
        raise TrainingError("the job requests cuda and no CUDA device is available here")
    return torch.device("cpu")


def threads_for(flops: float, most: int) -> int:
    """Number of threads, from 1 to `most`, for a training step of `flops` floating point operations.

    A pure function of the spec and of the host, not of the load of the moment, since the thread count changes the bits
    of the result. Threads synchronize several times per step and wake each other up, about 50 microseconds each time on
    a virtual machine: for small matrices this costs more than it saves. With two threads an epoch of MNIST takes 0.75
    of the time of one for a cnn (4e8 operations a step), and 1.2 times the time for an mlp of 256 units (8e7).
    """
    return max(1, min(most, int(flops / FLOPS_PER_THREAD)))


def set_up(
    seed: int, device: torch.device, threads: int, deterministic: bool = True, streams: int = seeds.STREAMS
) -> None:
    """Set the thread count, seed the global random streams and, if requested, choose deterministic kernels."""
    torch.set_num_threads(threads)  # sums are split by thread: the count changes the result
    random.seed(seeds.derive(seed, "python"))
    np.random.seed(np.frombuffer(seeds.derive(seed, "numpy").to_bytes(8, "big"), ">u4"))
    torch.manual_seed(seeds.derive(seed, "torch"))  # also of the GPUs, whose generators use all of its bits
    torch.set_rng_state(seeds.generator(seed, "torch", streams=streams).get_state())
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # the fill would cost a pass over memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32: manual and autograd are compared
        torch.backends.cudnn.allow_tf32 = False


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware that the bits of a result depend on, besides the spec; plain JSON values."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "gradq": VERSION,
        "torch": str(torch.__version__),  # a str subclass of torch: unpickling it would import torch
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
