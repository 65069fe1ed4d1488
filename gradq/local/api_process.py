"""The command line and the environment of the API's processes: gunicorn, as the verbs `api` and `up` start it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gradq import own_packages

if TYPE_CHECKING:
    from shared.config import Settings

PROCESSES, THREADS = 2, 32  # threads per process, for requests that neither are held nor wait for a slow client
IDLE_CONNECTIONS = 1000  # per process: keep-alive connections without a request in progress
MEMORY = "/dev/shm"  # gunicorn creates its heartbeat files there by mkstemp, and unlinks them  # nosec B108


def command(settings: Settings, bind: str, processes: int = PROCESSES, threads: int = THREADS) -> list[str]:
    """`bind` is host:port, or fd://N for a socket that the process inherits."""
    threads += settings.held_requests + settings.transfers
    options = {
        "--config": "python:api.server",
        "--bind": bind,
        "--workers": processes,
        "--threads": threads,
        "--worker-connections": threads + IDLE_CONNECTIONS,
        "--timeout": 60,
        "--graceful-timeout": 5,
        "--keep-alive": 5,
    }
    if os.access(MEMORY, os.W_OK):
        options["--worker-tmp-dir"] = MEMORY
    given = (str(word) for option in options.items() for word in option)
    return own_packages.python(
        *("-m", "gradq.local.program", "gunicorn", "api.app:create_app()", "--no-control-socket", *given)
    )


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Each request has a thread of its own. A prediction with as many as there are cores took 20 times as long on a
    busy machine, since OpenBLAS's threads spin while they wait. And glibc gives each thread an arena of memory, of
    which little is returned: with some 200 threads, requests of every kind left hundreds of megabytes behind."""
    return own_packages.environment({"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", **env})
