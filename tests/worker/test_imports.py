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


@pytest.mark.parametrize("module", ["worker.trainer.process", "worker.trainer.nets.import_torchvision"])
def test_importing_the_trainer_touches_no_gpu_and_starts_no_thread(module: str) -> None:
    script = (
        f"import {module}, os, sys, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'torchvision' not in sys.modules\n"
        "assert not os.path.isdir('/proc/self/task') or len(os.listdir('/proc/self/task')) == 1\n"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
