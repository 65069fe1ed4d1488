"""The verb `api`: the HTTP API alone, as docker-compose starts it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gradq.commands.service_process import Host, Port, become

IDLE_CONNECTIONS = 1000  # per process: keep-alive connections without a request in progress
MEMORY = "/dev/shm"  # gunicorn creates its heartbeat files there by mkstemp, and unlinks them  # nosec B108


def api(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Server processes.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads per process for requests that are not held.")] = 32,
    fd: Annotated[
        int | None, typer.Option(hidden=True, help="An open socket to use instead of --host and --port.")
    ] = None,
) -> None:
    """Serve the HTTP API alone, with gunicorn.

    Long polls and event streams use one thread each; every process has
    GRADQ_HELD_REQUESTS threads for them, in addition to --threads.
    """
    from gradq.local.public_address import require_a_token
    from shared.config import Settings

    settings = Settings.from_env()
    if fd is None:
        require_a_token(host, settings)
    threads += settings.held_requests
    bind = f"fd://{fd}" if fd is not None else (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    become(
        *("gunicorn", "api.app:create_app()", "--config", "python:api.server", "--bind", bind, "--no-control-socket"),
        *(
            "--workers",
            str(workers),
            "--threads",
            str(threads),
            "--worker-connections",
            str(threads + IDLE_CONNECTIONS),
        ),
        *("--timeout", "60", "--graceful-timeout", "5", "--keep-alive", "5"),
        *(("--worker-tmp-dir", MEMORY) if os.access(MEMORY, os.W_OK) else ()),
        # Each request has a thread of its own. A prediction with as many as there are cores took 20 times as long on a
        # busy machine, since OpenBLAS's threads spin while they wait.
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
    )
