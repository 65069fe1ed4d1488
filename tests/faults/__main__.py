"""python -m faults --seed 7 --faults 200 --database postgresql: a campaign; what `make faults` runs.

As root it moves into a mount namespace of its own first, where it may mount small disks that go when it ends.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from faults.campaign import Campaign
from faults.stream import KINDS

APART = "GRADQ_FAULTS_APART"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=100, help="at least so many")
    parser.add_argument("--kinds", type=int, default=len(KINDS), help="of jobs")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the parts' logs")
    options = parser.parse_args()
    live_apart()
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="gradq-faults-"))
    campaign = Campaign(seed, options.faults, options.jobs, options.database, folder, options.kinds)
    passed = False
    try:
        passed = not campaign.run()
    finally:
        if passed and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the parts' logs lie in {folder}; the same faults again: SEED={seed}")
    return 0 if passed else 1


def live_apart() -> None:
    unshare = shutil.which("unshare")
    if APART in os.environ or unshare is None:
        return
    if subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode == 0:
        command = [unshare, "--mount", sys.executable, "-m", "faults", *sys.argv[1:]]
        os.execve(unshare, command, {**os.environ, APART: "1"})


if __name__ == "__main__":
    sys.exit(main())
