"""The command line and the environment of the API's processes: gunicorn, as the verbs `api` and `up` start it.

`python -P -m gradq.local.api_process FD gunicorn …` migrates the database first, reports to FD how that ended, and then
is gunicorn. `gradq up` starts the API so: the API needs what a migration imports, and `gradq up` does not.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TextIO

from gradq import own_packages
from gradq.local import program

if TYPE_CHECKING:
    from shared.config import Settings

PROCESSES, THREADS = 2, 32  # threads per process, for requests that neither are held nor wait for a slow client
IDLE_CONNECTIONS = 1000  # per process: keep-alive connections without a request in progress
MEMORY = "/dev/shm"  # gunicorn creates its heartbeat files there by mkstemp, and unlinks them  # nosec B108


def command(
    settings: Settings, bind: str, processes: int = PROCESSES, threads: int = THREADS, report: int | None = None
) -> list[str]:
    """`bind` is host:port, or fd://N for a socket that the process inherits. `report`: a pipe that it inherits; with
    it, the process migrates the database first."""
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
    module = ("gradq.local.program",) if report is None else (__name__, str(report))
    return own_packages.python("-m", *module, "gunicorn", "api.app:create_app()", "--no-control-socket", *given)


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Each request has a thread of its own. A prediction with as many as there are cores took 20 times as long on a
    busy machine, since OpenBLAS's threads spin while they wait. And glibc gives each thread an arena of memory, of
    which little is returned: with some 200 threads, requests of every kind left hundreds of megabytes behind."""
    return own_packages.environment({"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", **env})


def main(report: int, *command: str) -> None:
    program.prepare()
    with os.fdopen(report, "w") as pipe:
        if not _is_migrated() and not _migrated_by_child(pipe):
            raise SystemExit(1)
        _send(pipe, {})
    program.run(*command)


def _is_migrated() -> bool:
    """Whether the database has the newest schema; False if that cannot be found out."""
    from shared.config import Settings
    from shared.db.database import Database
    from shared.db.revision import NEWEST_REVISION
    from shared.db.schema_check import SchemaCheck
    from shared.errors import GradqError

    with suppress(GradqError, OSError), closing(Database(Settings.from_env().database)) as database:
        return SchemaCheck(database).revision() == NEWEST_REVISION
    return False


def _migrated_by_child(report: TextIO) -> bool:
    """Migrates in a forked process, with which the memory that Alembic takes is gone. Returns whether that succeeded;
    an error that the operator is to be shown was reported."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        if failure := _migrate():
            _send(report, failure)
        else:
            code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _migrate() -> dict[str, str]:
    """Migrates the database. Returns an empty dict, or `code` and `detail` of the error."""
    from shared.config import Settings
    from shared.db.database import Database
    from shared.errors import GradqError

    try:
        with closing(Database(Settings.from_env().database)) as database:
            database.migrate()
    except GradqError as error:
        return {"code": error.code, "detail": error.detail}
    except OSError as error:
        return {"code": "os_error", "detail": ": ".join(str(part) for part in (error.filename, error.strerror) if part)}
    return {}


def _send(report: TextIO, failure: dict[str, str]) -> None:
    with suppress(BrokenPipeError):  # `gradq up` has ended
        report.write(f"{json.dumps(failure)}\n")
        report.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
