"""A short campaign; `make faults` runs long ones, on either database. The seed is drawn and printed; CI has its own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SECONDS = 420
SHORT = ["--faults", "20", "--jobs", "12", "--kinds", "3"]


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 30)
def test_after_twenty_faults_nothing_is_lost_and_nothing_done_twice() -> None:
    seed = 20 if os.environ.get("CI") == "true" else secrets.randbelow(1 << 31)
    command = [sys.executable, "-m", "faults", "--seed", str(seed), *SHORT]
    print("seed", seed)
    run = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout
