"""`python -P -m gradq.local.worker_process [FD]` is a worker with a TMPDIR of its own; see `worker.startup` for FD."""

from __future__ import annotations

import atexit
import os
import sys

from gradq import own_packages
from gradq.local import program
from gradq.local.folders import private
from gradq.local.worker_tmp import own_tmp, remove


def command(fd: int | None = None) -> list[str]:
    """The command line of this module. `fd`: the socket of `worker.startup`, which the process inherits."""
    return own_packages.python("-m", __name__, *([] if fd is None else [str(fd)]))


def main(*arguments: str) -> None:
    program.prepare()
    from shared import heartbeat
    from shared.config import Settings

    settings = Settings.from_env()
    settings.make_state_dir()
    heartbeat.start(settings.state_dir)
    tmp = own_tmp(settings.state_dir)
    atexit.register(remove, tmp)  # after multiprocessing, imported later, has removed its folder in it
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # OpenBLAS would start its threads before the fork of the trainers
    os.environ["TMPDIR"] = str(tmp)
    os.environ.setdefault("MPLCONFIGDIR", str(private(settings.state_dir / "matplotlib")))
    try:
        program.run("worker", *arguments)
    finally:
        heartbeat.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
