"""A short run of the greedy owner; `python -m faults.greedy` runs ten minutes, on either database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.abuses import KINDS

ROOT = Path(__file__).parents[2]
SECONDS = 420


def greedy(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "faults.greedy", *arguments]
    env = {**os.environ, "PYTHONPATH": "tests"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 30)
def test_one_owner_who_tries_everything_does_not_stop_another() -> None:
    run = greedy("--minutes", "0.4")
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(f"    {name}: " in run.stdout for name in KINDS)


def test_an_unknown_kind_is_refused() -> None:
    run = greedy("--only", "half-sent,haf-sent")
    assert run.returncode == 2
    assert "unknown: haf-sent" in run.stderr
