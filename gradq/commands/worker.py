"""The verb `worker`: one worker alone, as docker-compose starts it."""

from __future__ import annotations

import os

from gradq import own_packages
from gradq.commands.service_process import Slots, SlotThreads, become


def worker(slots: Slots = None, threads: SlotThreads = None) -> None:
    """Run one Celery worker, which trains jobs until SIGTERM.

    On SIGTERM it checkpoints its running jobs and queues them again.
    """
    from gradq.local import worker_process
    from shared.config import Settings

    given = {"GRADQ_SLOTS": slots, "GRADQ_THREADS_PER_SLOT": threads}
    env = os.environ | {name: str(value) for name, value in given.items() if value is not None}
    Settings.from_env().make_state_dir()  # what is wrong here is one sentence, with exit code 2
    become(worker_process.command(), own_packages.environment(env))
