"""The verbs that run parts of the service: up, api, worker, migrate. The last three are what docker-compose starts."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn
from uuid import uuid4

import typer

from gradq import own_packages
from gradq.commands.options import AsJson, print_json, print_json_line

if TYPE_CHECKING:
    from shared.config import Settings
    from shared.db.database import Database

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes any free one.")]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Jobs at a time. Default: one a GPU, else one a CPU core up to 4.")
]
SlotThreads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads of one job. Default: cores divided by slots.")
]

IDLE_CONNECTIONS = 1000  # kept open a while between two requests, in each process
MEMORY = "/dev/shm"  # gunicorn opens its files there by mkstemp, and unlinks them  # nosec B108


def up(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    state: Annotated[Path | None, typer.Option(help="Folder for database, files, logs. [GRADQ_STATE_DIR]")] = None,
    slots: Slots = None,
    threads: SlotThreads = None,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine: broker, API and one worker.

    Prints `ready http://…` once jobs are taken. Ctrl-C or SIGTERM ends all of
    it; jobs under way are checkpointed and go on at the next start.
    """
    from gradq.local.embedded import EmbeddedService
    from gradq.local.public_address import refuse_strangers
    from shared.config import Settings

    given = {"state_dir": state, "slots": slots, "threads_per_slot": threads}
    settings = Settings.from_env(**{name: value for name, value in given.items() if value is not None})
    refuse_strangers(host, settings)
    raise typer.Exit(EmbeddedService(settings, _say_json if as_json else _say).run(host, port))


def api(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Server processes.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads a process for requests that are not held.")] = 32,
    fd: Annotated[int | None, typer.Option(hidden=True, help="An open socket to take instead.")] = None,
) -> None:
    """Serve the HTTP API alone, with gunicorn.

    A client that waits for news holds a thread of its own; there are
    GRADQ_HELD_REQUESTS of these in each process, beside --threads.
    """
    from gradq.local.public_address import refuse_strangers
    from shared.config import Settings

    settings = Settings.from_env()
    if fd is None:
        refuse_strangers(host, settings)
    threads += settings.held_requests
    bind = f"fd://{fd}" if fd is not None else (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    _become(
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
        env=dict(os.environ),
    )


def worker(slots: Slots = None, threads: SlotThreads = None) -> None:
    """Run one Celery worker, which trains jobs until SIGTERM.

    SIGTERM checkpoints the jobs under way and puts them back in the queue.
    """
    from gradq.local.folders import private
    from gradq.local.worker_tmp import own_tmp
    from shared.broker import QUEUE
    from shared.config import Settings

    settings = Settings.from_env()
    settings.make_state_dir()
    env = dict(os.environ)
    env["OPENBLAS_NUM_THREADS"] = "1"  # its threads would be there before the fork that every trainer starts with
    if slots is not None:
        env["GRADQ_SLOTS"] = str(slots)
    if threads is not None:
        env["GRADQ_THREADS_PER_SLOT"] = str(threads)
    env["TMPDIR"] = str(own_tmp(settings.state_dir))
    env.setdefault("MPLCONFIGDIR", str(private(settings.state_dir / "matplotlib")))
    _become(
        *("celery", "-A", "worker.app", "worker", "-P", "threads", *(("-c", str(slots)) if slots else ())),
        *("--without-gossip", "--without-mingle", "-Q", QUEUE, "-n", f"gradq-{uuid4().hex[:12]}@%h"),
        *("--loglevel", settings.log_level.upper()),
        env=env,
    )


def migrate(
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for a database that is starting.")
    ] = 0.0,
    to: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Go to this one, up or down. Default: the newest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the newest schema; safe to run again.

    With --to an older revision the way leads down: what newer revisions
    added is taken away, with what is in it. Stop the service and make a
    backup first.
    """
    from shared.config import Settings
    from shared.db.database import Database
    from shared.db.migrate import NEWEST, known
    from shared.errors import DatabaseAway

    settings = Settings.from_env()
    settings.make_state_dir()
    database, deadline = Database(settings.database), time.monotonic() + wait
    while True:
        try:
            if to is not None:
                _refuse_at_work(database, settings)
            revision = database.migrate(to or NEWEST)
        except DatabaseAway:
            if time.monotonic() >= deadline:
                raise
            time.sleep(min(0.5, wait))
        else:
            break
    database.close()
    if as_json:
        print_json({"object": "schema", "revision": revision})
    else:
        newest = "the newest schema" if revision == known()[-1] else "an older schema"
        print(f"the database is at {newest}, {revision}")


def _refuse_at_work(database: Database, settings: Settings) -> None:
    """Nobody may use tables that are being taken away."""
    from sqlalchemy import inspect

    from shared.errors import ConfigurationError
    from shared.workers import any_worker_alive

    with database.read() as session:
        there = inspect(session.connection()).has_table("workers")
        if there and any_worker_alive(session, settings.lease_seconds):
            raise ConfigurationError("a worker is at work on this database; stop the service first, then migrate --to")


def _say(line: str) -> None:
    with suppress(OSError):  # whoever read our output may be gone; the parts still have to be stopped in order
        print(line, flush=True)


def _say_json(line: str) -> None:
    """A line as an object; the one that says where the service is ready also names the address by itself."""
    word, _, rest = line.partition(" ")
    with suppress(OSError):
        print_json_line({"message": line, "ready": rest if word == "ready" else None})


def _become(module: str, *arguments: str, env: dict[str, str]) -> NoReturn:
    """Turn this process into `python -m module`, so that signals reach it and nothing stands in between."""
    command = own_packages.python("-m", "gradq.local.program", module, *arguments)
    env = own_packages.environment(env)
    os.execve(command[0], command, env)  # no shell is wanted  # nosec B606
