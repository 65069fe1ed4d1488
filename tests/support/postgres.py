"""A private PostgreSQL cluster for tests, from the machine's binaries; the system's cluster is not touched.

with Postgres() as postgres:
    database = Database(postgres.database())     # a new, empty one in the same cluster
    postgres.kill()                              # SIGKILL for every process, as in a power cut
    postgres.start()                             # the same port, folder and data again
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import quote
from uuid import uuid4

import psutil
import psycopg
import pytest
from psycopg import sql
from support.waiting import wait_for

START_SECONDS, STOP_SECONDS = 60.0, 30.0
PORT_TRIES = 5  # another process may take a free port before the server does
FREE_PORTS, FREE_PORT_TRIES = range(16_384, 32_768), 100


def part_missing(reason: str) -> NoReturn:
    """Skip the test because this machine lacks something; on CI, where nothing may be missing, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and with CI=true nothing may be skipped for that")
    pytest.skip(reason)


def require_postgres() -> None:
    if find_binary("postgres") is None or find_binary("initdb") is None:
        part_missing("PostgreSQL is not installed (no initdb and postgres on the PATH or in /usr/lib/postgresql)")
    if os.getuid() == 0 and plain_user() is None:
        part_missing("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")


def find_binary(name: str) -> str | None:
    """The path of a PostgreSQL program: on the PATH, else Debian's newest version, which is not on it."""
    versions = sorted(glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: float(path.split("/")[4]))
    return shutil.which(name) or (versions[-1] if versions else None)


def plain_user() -> str | None:
    """The user to run PostgreSQL as when the tests run as root, which it refuses; None for other users."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def free_port() -> int:
    """A port that no process listens on, and that the kernel gives to no process that binds to 0 or connects: those
    get ports from 32768 up on Linux, and one of those could be gone again before the server of a test has it."""
    for _ in range(FREE_PORT_TRIES):
        port = FREE_PORTS.start + secrets.randbelow(len(FREE_PORTS))  # `random` may be seeded alike in every process
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no free port in {FREE_PORT_TRIES} tries from {FREE_PORTS.start} to {FREE_PORTS.stop - 1}")


class Postgres:
    """A cluster on a free loopback port, in its own folder, which `close` removes. It requires passwords."""

    def __init__(self, user: str = "gradq", password: str = "let me in", database: str = "gradq") -> None:
        self.user, self.password, self.name = user, password, database
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path()  # not in tmp_path: if root runs the tests, only root may enter it

    @property
    def url(self) -> str:
        return self.url_of(self.name)

    def url_of(self, database: str) -> str:
        return f"postgresql+psycopg://{self._address(database)}"

    def database(self) -> str:
        """Create another, empty database and return its URL."""
        name = f"db_{uuid4().hex[:12]}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url_of(name)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Postgres:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> Postgres:
        """Start the server and wait until it accepts connections; the first call creates the cluster."""
        try:
            if self.folder == Path():
                self._initdb()
                for _ in range(PORT_TRIES):
                    self.port = free_port()
                    if self._serve():
                        break
                self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
            else:
                self._serve()
            assert self.alive, f"PostgreSQL does not start:\n{self.log}"
        except BaseException:
            self.close()
            raise
        return self

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Shut down: connections are closed, committed data is on disk."""
        if self.process is not None and self.alive:
            self.process.send_signal(2)  # SIGINT: fast shutdown; SIGTERM waits for the clients to disconnect
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"PostgreSQL did not stop within {STOP_SECONDS:g} s:\n{self.log}") from None

    def kill(self) -> None:
        """SIGKILL for all of its processes; the next start recovers from the log."""
        if self.process is None or not self.alive:
            return
        family = psutil.Process(self.process.pid)
        processes = [family, *family.children(recursive=True)]
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        psutil.wait_procs(processes[1:], timeout=STOP_SECONDS)  # the shared memory is freed with the last of them

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its processes are stopped (SIGSTOP) in the block: connections stay open, and nothing is answered."""
        assert self.process is not None
        family = psutil.Process(self.process.pid)
        family.suspend()  # first, so that it starts no others
        stopped = [family, *family.children(recursive=True)]
        try:
            for process in stopped[1:]:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            yield
        finally:
            for process in reversed(stopped):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def close(self) -> None:
        """Stop the server and remove the folder."""
        try:
            self.stop()
        finally:
            if self.folder != Path():
                shutil.rmtree(self.folder, ignore_errors=True)

    def _initdb(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gradq-pg-"))
        password = self.folder / "password"
        password.write_text(self.password)
        if (user := plain_user()) is not None:
            entry = pwd.getpwnam(user)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            os.chown(password, entry.pw_uid, entry.pw_gid)
        arguments = ["--pgdata", str(self.folder / "data"), "--username", self.user, "--pwfile", str(password)]
        plain = ["--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync"]
        made = subprocess.run(
            [find_binary("initdb") or "initdb", *arguments, *plain],
            capture_output=True,
            text=True,
            **self._as_plain_user(),
        )
        assert made.returncode == 0, f"initdb failed:\n{made.stdout}{made.stderr}"

    def _serve(self) -> bool:
        """Start the server. True once it accepts connections, False if it ended instead."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "16MB",
            "fsync": "off",  # a killed process loses nothing by it, only a crashed machine would
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [find_binary("postgres") or "postgres", "-D", str(self.folder / "data"), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C interrupts only the tests
                **self._as_plain_user(),
            )
        wait_for(lambda: self._answers() or not self.alive, START_SECONDS, "PostgreSQL to take connections")
        return self.alive

    def _answers(self) -> bool:
        try:
            self._execute(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return self.alive

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        with psycopg.connect(
            f"postgresql://{self._address('postgres')}", autocommit=True, connect_timeout=5
        ) as connection:
            connection.execute(statement)

    def _address(self, database: str) -> str:
        return f"{quote(self.user)}:{quote(self.password)}@127.0.0.1:{self.port}/{database}"

    def _as_plain_user(self) -> dict[str, Any]:
        """Arguments for subprocess: a user without root's rights, and a working folder that it may enter."""
        user = plain_user()
        if user is None:
            return {"cwd": self.folder}
        return {"cwd": self.folder, "user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
