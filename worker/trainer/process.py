"""The process of one job: what surrounds `run_job` when a supervisor started it. Speaks over one pipe, to one listener.

Forked from a server that has torch imported and no thread running, so it starts in milliseconds. It leads a process
group of its own (whatever it starts ends with it), and ends by itself when its supervisor is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg  # this and what follows: imported before the fork, or each job would pay
import matplotlib.backends.backend_svg
import matplotlib.figure
import sklearn.datasets
import torch
import torch._inductor  # what torch.optim and use_deterministic_algorithms() import at their first use

from shared.errors import TrainingError
from shared.events import Event, Failed, Finished, Log, Stopped
from shared.spec.job_spec import KINDS, GradientCheckSpec, JobSpec, WalkSpec, Work
from worker.disks import disk_is_full
from worker.plan import Plan
from worker.trainer.job import run_job
from worker.trainer.run import Run, StopRequested

with contextlib.suppress(ImportError):
    import onnx  # of the extra gradq[onnx]  # noqa: F401

RUNNERS = {
    GradientCheckSpec.kind: ("worker.trainer.gradient_check_job", "run_check"),
    WalkSpec.kind: ("worker.trainer.walk.walk", "run_walk"),
}
PRELOADED = (matplotlib, sklearn, torch)
MEMORY_VICTIM = "800"  # of 1000: the kernel, short of memory, ends the trainer and not the worker


def warm_up(pipe: connection.Connection) -> None:
    """A first child that does nothing: brings the server up, so that the first job finds it running."""
    pipe.send(os.getpid())


def run(pipe: connection.Connection, plan: Plan) -> None:
    """Entry of the process. Reports events; the last one is Finished, Stopped or Failed."""
    threads_at_entry = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    os.setsid()
    gc.freeze()  # the collector leaves what the server imported alone: walking it would copy every page that is shared
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the service, which then sends SIGTERM
    see_only(plan)
    raise_oom_score()
    threading.Thread(target=end_with_supervisor, name="orphan-guard", daemon=True).start()
    spec = KINDS[plan.kind].model_validate(plan.spec)
    pipe.send(Log(message="trainer started", data={"pid": os.getpid(), "threads_at_entry": threads_at_entry}))
    try:
        pipe.send(outcome_of(spec, plan, stop, pipe))
    except BrokenPipeError:
        sys.exit(1)  # nobody listens any more; the orphan guard is about to say the same


def outcome_of(spec: Work, plan: Plan, stop: threading.Event, pipe: connection.Connection) -> Event:
    """Run the job; every way in which it can end is an event."""
    attempt = Run(
        folder=Path(plan.folder),
        resume=Path(plan.resume) if plan.resume else None,
        reported_step=plan.reported_step,
        stop=stop.is_set,
        init_from=Path(plan.init_from) if plan.init_from else None,
    )
    spec = spec if plan.device == "cuda" else spec.model_copy(update={"device": "cpu"})
    try:
        result = runner_of(plan.kind)(
            spec,
            attempt,
            pipe.send,
            data_dir=Path(plan.data_dir),
            download=plan.download,
            threads=plan.threads,
            uploaded=Path(plan.dataset) if plan.dataset else None,
        )
    except StopRequested as stopped:
        return Stopped(step=stopped.step)
    except TrainingError as error:
        return Failed(code=error.code, message=error.detail, data=error.data)
    except BrokenPipeError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return Failed(code=code_of(error), message=message, traceback=traceback.format_exc())
    return Finished(result=result)


def runner_of(kind: str) -> Callable[..., dict[str, Any]]:
    """What runs a job of this kind. What few jobs need is imported when one of them comes."""
    if kind == JobSpec.kind:
        return run_job
    module, function = RUNNERS[kind]
    runner: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
    return runner


def code_of(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out_of_memory_gpu"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch has no class for it
        return "out_of_memory_host"
    return "disk_full" if disk_is_full(error) else "internal_error"


def see_only(plan: Plan) -> None:
    """Show this process its one GPU, or none, before anything asks CUDA."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = plan.gpu_uuid or ""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def raise_oom_score() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(MEMORY_VICTIM)
    except OSError:
        return  # no such file on this system, or not allowed to: then the kernel chooses as it always does


def end_with_supervisor() -> None:
    """Wait until the worker is gone, however it went, then end this whole process group."""
    supervisor = parent_process()
    assert supervisor is not None
    connection.wait([supervisor.sentinel])
    os.killpg(os.getpgid(0), signal.SIGKILL)
