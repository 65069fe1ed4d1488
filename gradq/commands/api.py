"""The verb `api`: the HTTP API alone, as docker-compose starts it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gradq.commands.service_process import Host, Port, become
from gradq.local.api_process import PROCESSES, THREADS, command, environment


def api(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Server processes.")] = PROCESSES,
    threads: Annotated[int, typer.Option(min=1, help="Threads per process for requests that are not held.")] = THREADS,
) -> None:
    """Serve the HTTP API alone, with gunicorn.

    Long polls and event streams, and uploads and downloads, use one thread
    each; every process has GRADQ_HELD_REQUESTS and GRADQ_TRANSFERS threads
    for them, in addition to --threads.
    """
    from gradq.local.listener import listen
    from gradq.local.public_address import require_a_token
    from shared.config import Settings

    settings = Settings.from_env()
    require_a_token(host, settings)
    with listen(host, port) as listener:
        listener.set_inheritable(True)
        become(command(settings, f"fd://{listener.fileno()}", workers, threads), environment(os.environ))
