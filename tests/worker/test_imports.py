"""Importing a module opens nothing, and only the trainer's process has torch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

WATCH = textwrap.dedent(
    """
    import importlib, json, os, sys, threading
    seen = []

    def watch(event, arguments):
        if event in ("socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen", "os.fork", "os.mkdir"):
            seen.append([event, str(arguments)])
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and "__pycache__" not in str(arguments[0]):
            seen.append([event, str(arguments)])

    sys.addaudithook(watch)
    importlib.import_module(sys.argv[1])
    print(json.dumps({
        "seen": [s for s in seen if "__pycache__" not in s[1]],
        "torch": sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision")),
        "threads": [t.name for t in threading.enumerate() if t is not threading.main_thread()],
        "logged": bool(__import__("logging").getLogger().handlers),
    }))
    """
)


@pytest.mark.parametrize("module", ["worker.app", "worker.tasks", "api.app", "gradq", "gradq.cli"])
def test_importing_opens_nothing_and_brings_no_torch(module: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    env["GRADQ_STATE_DIR"] = str(tmp_path / "state")
    run = subprocess.run([sys.executable, "-c", WATCH, module], env=env, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == '{"seen": [], "torch": [], "threads": [], "logged": false}'
    assert run.stderr == ""
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "module", ["worker.trainer.process", "worker.trainer.preload", "worker.trainer.nets.import_torchvision"]
)
def test_importing_the_trainer_touches_no_gpu_and_starts_no_thread(module: str) -> None:
    """`preload` also trains: its server is forked, which would lose its threads."""
    script = (
        f"import {module}, os, sys, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'torchvision' not in sys.modules\n"
        "assert not os.path.isdir('/proc/self/task') or len(os.listdir('/proc/self/task')) == 1\n"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr


RUNS = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from shared.spec.job_spec import GradientCheckSpec, JobSpec, WalkSpec
    from worker.trainer import process
    from worker.trainer.run import Run

    def run(kind, spec, folder):
        where = {"data_dir": Path("none"), "download": False, "threads": 1}
        process.runner_of(kind)(spec, Run(Path(folder)), lambda event: None, **where)

    momentum = {"type": "sgd", "momentum": 0.9}
    for number, optimizer in enumerate(["basic", "sgd", momentum, "adam", "adamw"]):
        for gradients in ("manual", "autograd"):
            # with enough steps that they are repeated from a tape
            spec = {"dataset": "digits", "epochs": 1, "batch_size": 8, "optimizer": optimizer, "gradients": gradients}
            run(JobSpec.kind, JobSpec.parse({**spec, "device": "cpu"}), f"{number}-{gradients}")
    run(JobSpec.kind, JobSpec.parse({"dataset": "digits", "architecture": "cnn", "epochs": 1, "device": "cpu"}), "cnn")
    run(GradientCheckSpec.kind, GradientCheckSpec.parse({"dataset": "digits", "device": "cpu"}), "check")
    run(WalkSpec.kind, WalkSpec.parse({"dataset": "digits", "device": "cpu"}), "walk")
    print(sorted({"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys()))
    """
)


def test_no_job_on_our_own_networks_imports_the_compiler_of_torch(tmp_path: Path) -> None:
    """It would take each job 0.6 s, unless the trainer server had it, and 70 MB, from the start on."""
    run = subprocess.run([sys.executable, "-c", RUNS], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
