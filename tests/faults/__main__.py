"""python -m faults --seed 7 --faults 200 --database postgresql: run a campaign, as `make faults` does.

As root it enters a new mount namespace first, where it may mount small disks that disappear when it ends.
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

NAMESPACE_ENTERED = "GRADQ_FAULTS_APART"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: random, and printed")
    parser.add_argument("--faults", type=int, default=200, help="0: each kind that fits, once")
    parser.add_argument("--jobs", type=int, default=100, help="the least number of jobs")
    parser.add_argument("--kinds", type=int, default=len(KINDS), help="how many kinds of jobs")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--store", choices=("folder", "s3"), default="folder")
    parser.add_argument("--hosts", type=int, choices=(1, 2), default=1, help="2: each worker has a host of its own")
    parser.add_argument("--only", default="", metavar="A,B", help="classes of faults to draw from; default: all")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the processes' logs")
    options = parser.parse_args()
    enter_mount_namespace()
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="gradq-faults-"))
    only = tuple(filter(None, options.only.split(",")))
    campaign = Campaign(
        *(seed, options.faults, options.jobs, options.database, folder, options.kinds),
        *(options.store, options.hosts, only),
    )
    passed = False
    try:
        passed = not campaign.run()
    finally:
        if passed and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the processes' logs are in {folder}/kept; to repeat these faults: SEED={seed}")
    return 0 if passed else 1


def enter_mount_namespace() -> None:
    """Run this program again in a mount namespace of its own, if it may; returns if it may not or is in one."""
    unshare = shutil.which("unshare")
    if NAMESPACE_ENTERED in os.environ or unshare is None:
        return
    if subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode == 0:
        command = [unshare, "--mount", sys.executable, "-m", "faults", *sys.argv[1:]]
        os.execve(unshare, command, {**os.environ, NAMESPACE_ENTERED: "1"})


if __name__ == "__main__":
    sys.exit(main())
