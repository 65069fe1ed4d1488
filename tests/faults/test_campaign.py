"""Short campaigns, with each kind of fault once; `make faults` runs long ones, on either database. The seed is random
and printed; fixed on CI."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SECONDS = 420
SHORT = ["--faults", "0", "--jobs", "12", "--kinds", "3"]
STORE = "CutStore,RefuseStore,FillStore,SlowStore,VerySlowStore,FillHost,KillWorker"


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param([], id="one host"),
        pytest.param(["--store", "s3", "--hosts", "2", "--only", STORE], id="two hosts, S3"),
    ],
)
def test_after_each_fault_no_job_is_lost_or_done_twice(place: list[str]) -> None:
    seed = 20 if os.environ.get("CI") == "true" else secrets.randbelow(1 << 31)
    command = [sys.executable, "-m", "faults", "--seed", str(seed), *SHORT, *place]
    print("seed", seed)
    run = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(TESTS), "HEALTHZ_SECONDS": "5"},  # four test processes share the cores
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout
