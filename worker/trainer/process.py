"""The process of one job, started by a supervisor: runs the job and sends its events over a pipe.

Forked from a server that has torch imported and no thread running, so it starts in milliseconds. It leads its own
process group, so that its child processes end with it, and it exits when its supervisor is gone.
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

# imported before the fork, since each job would pay for the import otherwise
import matplotlib.backends.backend_agg
import matplotlib.backends.backend_svg
import matplotlib.figure
import numpy.random  # numpy imports it at its first use
import torch
import torch.utils.serialization.config  # torch.save() imports it

from shared.disks import disk_error, disk_is_unusable
from shared.errors import TrainingError
from shared.events import Event, Failed, Finished, Log, Stopped
from shared.pictures import files
from shared.spec.job_spec import KINDS, GradientCheckSpec, JobSpec, WalkSpec, Work
from worker.folder_cache import FolderCache
from worker.plan import Plan
from worker.trainer.job import run_job
from worker.trainer.run import Run, StopRequested

with contextlib.suppress(ImportError):
    import onnx  # comes with gradq[onnx]  # noqa: F401

RUNNERS = {
    GradientCheckSpec.kind: ("worker.trainer.gradient_check_job", "run_check"),
    WalkSpec.kind: ("worker.trainer.walk.walk", "run_walk"),
}
PRELOADED = (matplotlib, numpy, torch)
LEAST_PRIORITY = 19
OOM_SCORE_ADJ = "800"  # of 1000: when memory runs out, the kernel kills the trainer and not the worker


def warm_up(pipe: connection.Connection) -> None:
    """Entry of a child process that does nothing: starts the fork server before the first job needs it."""
    pipe.send(os.getpid())


def draw(pipe: connection.Connection, source: Path, folder: Path) -> None:
    """Entry of a process that draws a finished job's pictures; jobs come first. Sends None, or what was wrong."""
    os.nice(LEAST_PRIORITY)
    settle()
    try:
        files.draw(source, folder)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send(None)


def settle() -> None:
    """What each forked process does first: it ends with its worker, and before all others when memory runs out."""
    os.setsid()
    # keep the garbage collector off the objects of the server: to visit them would copy every shared page
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the service, which then sends SIGTERM
    raise_oom_score()
    threading.Thread(target=end_with_supervisor, name="orphan-guard", daemon=True).start()


def run(pipe: connection.Connection, plan: Plan) -> None:
    """Entry of the trainer process. Sends events over the pipe; the last one is Finished, Stopped or Failed."""
    threads_at_entry = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    hide_other_gpus(plan)
    settle()
    spec = KINDS[plan.kind].stored(plan.spec)
    pipe.send(Log(message="trainer started", data={"pid": os.getpid(), "threads_at_entry": threads_at_entry}))
    try:
        pipe.send(outcome_of(spec, plan, stop, pipe))
    except BrokenPipeError:
        sys.exit(1)  # the supervisor is gone; the orphan guard would end this process anyway


def outcome_of(spec: Work, plan: Plan, stop: threading.Event, pipe: connection.Connection) -> Event:
    """Run the job and return its last event: Finished, Stopped or Failed. Raises only BrokenPipeError."""
    attempt = Run(
        folder=Path(plan.folder),
        resume=Path(plan.resume) if plan.resume else None,
        reported_step=plan.reported_step,
        stop_requested=stop.is_set,
        init_from=Path(plan.init_from) if plan.init_from else None,
        supervised=True,
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
            cache=FolderCache(Path(plan.cache_dir), plan.cache_bytes) if plan.cache_dir and plan.cache_bytes else None,
        )
    except StopRequested as stopped:
        return Stopped(step=stopped.step)
    except TrainingError as error:
        # what cannot be read is not damaged if the disk cannot be used
        code = "disk_full" if disk_is_unusable(error.__cause__) else error.code
        return Failed(code=code, message=error.detail, data=error.data)
    except BrokenPipeError:
        raise
    except Exception as error:
        unusable = code_of(error) == "disk_full"
        message = disk_error(error, plan.folder) if unusable else f"{type(error).__name__}: {error}"
        return Failed(code=code_of(error), message=message, traceback=traceback.format_exc())
    return Finished(result=result)


def runner_of(kind: str) -> Callable[..., dict[str, Any]]:
    """The function that runs a job of this kind; modules of the rarer kinds are imported on first use."""
    if kind == JobSpec.kind:
        return run_job
    module, function = RUNNERS[kind]
    runner: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
    return runner


def code_of(error: Exception) -> str:
    """The error code of an exception that is not a TrainingError."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out_of_memory_gpu"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch has no exception class for it
        return "out_of_memory_host"
    return "disk_full" if disk_is_unusable(error) else "internal_error"


def hide_other_gpus(plan: Plan) -> None:
    """Make only the job's GPU visible to this process, or none. Must run before CUDA is initialized."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = plan.gpu_uuid or ""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def raise_oom_score() -> None:
    """Make this process the kernel's first choice when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)
    except OSError:
        return  # not Linux, or not permitted: the kernel then chooses by its defaults


def end_with_supervisor() -> None:
    """Wait until the worker process has ended, for any reason, then kill this process group."""
    supervisor = parent_process()
    assert supervisor is not None
    connection.wait([supervisor.sentinel])
    os.killpg(os.getpgid(0), signal.SIGKILL)
