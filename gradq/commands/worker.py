"""The verb `worker`: one worker alone, as docker-compose starts it."""

from __future__ import annotations

import os
from uuid import uuid4

from gradq.commands.service_process import Slots, SlotThreads, become


def worker(slots: Slots = None, threads: SlotThreads = None) -> None:
    """Run one Celery worker, which trains jobs until SIGTERM.

    On SIGTERM it checkpoints its running jobs and queues them again.
    """
    from gradq.local.folders import private
    from gradq.local.worker_tmp import own_tmp
    from shared.broker import QUEUE
    from shared.config import Settings

    settings = Settings.from_env()
    settings.make_state_dir()
    env = dict(os.environ)
    env["OPENBLAS_NUM_THREADS"] = "1"  # OpenBLAS would start its threads before the fork of the trainers
    if slots is not None:
        env["GRADQ_SLOTS"] = str(slots)
    if threads is not None:
        env["GRADQ_THREADS_PER_SLOT"] = str(threads)
    env["TMPDIR"] = str(own_tmp(settings.state_dir))
    env.setdefault("MPLCONFIGDIR", str(private(settings.state_dir / "matplotlib")))
    become(
        *("celery", "-A", "worker.app", "worker", "-P", "threads", *(("-c", str(slots)) if slots else ())),
        *("--without-gossip", "--without-mingle", "-Q", QUEUE, "-n", f"gradq-{uuid4().hex[:12]}@%h"),
        *("--loglevel", settings.log_level.upper()),
        env=env,
    )
