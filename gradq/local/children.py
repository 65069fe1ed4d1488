"""Child processes that are restarted when they die or no longer work, and end when their parent dies."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import psutil

from gradq.local.liveness import Liveness

PR_SET_PDEATHSIG = 1
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 30.0
STEADY_SECONDS = 60.0  # a child that ran longer restarts with the first backoff
KEPT_LOG_BYTES = 10 << 20  # of the log, and of the older one next to it
STOP_ROUNDS = 200  # for a part that no longer works to stop by itself


@dataclass
class Child:
    """One part of the service, with its own log file and process group, so that a Ctrl-C in the terminal only reaches
    the supervisor, which then stops the parts in order.

    `liveness` tells whether it works, None: whether it runs is enough. `stop_rounds`: calls of `tend` until a part that
    no longer works is killed.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    started_at: float = 0.0
    restart_at: float | None = field(default=None)
    stopping: bool = False
    liveness: Liveness | None = None
    stop_rounds: int = STOP_ROUNDS
    kill_in: int | None = None  # rounds

    def start(self) -> None:
        """Raises OSError if the process cannot be started, or its log not be opened at the first time."""
        keep_small(self.log, KEPT_LOG_BYTES)
        with self._open_log() as log:
            self.process = subprocess.Popen(  # a list of our own, no shell  # nosec B603
                self.command,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.pass_fds,
                start_new_session=True,
                preexec_fn=end_with_parent(os.getpid()),
            )
        self.started_at, self.restart_at, self.stopping, self.kill_in = time.monotonic(), None, False, None

    def _open_log(self) -> BinaryIO:
        try:
            return self.log.open("ab")
        except OSError:
            if self.process is None:
                raise
            return open(os.devnull, "ab")  # a part that has run goes on, though its log's folder may be gone

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tend(self, say: Callable[[str], None]) -> None:
        """Looks after the process: cuts its log, ends it if it no longer works, restarts it after its backoff if it
        has died. Called once per round of the supervisor's loop; raises no OSError."""
        keep_small(self.log, KEPT_LOG_BYTES)
        if self.alive:
            self._judge(say)
            return
        if self.restart_at is None:
            lived = time.monotonic() - self.started_at
            self.deaths = 1 if lived > STEADY_SECONDS else self.deaths + 1
            backoff = min(FIRST_BACKOFF_SECONDS * 2 ** (self.deaths - 1), LONGEST_BACKOFF_SECONDS)
            self.restart_at = time.monotonic() + backoff
            say(f"{self.name} {self._how_it_ended()}; restarting it in {backoff:g} s (log: {self.log})")
        elif time.monotonic() >= self.restart_at:
            try:
                self.start()
            except OSError as error:  # no memory or process for it at the moment
                self.restart_at = time.monotonic() + LONGEST_BACKOFF_SECONDS
                say(f"{self.name} cannot be started: {error}; trying again in {LONGEST_BACKOFF_SECONDS:g} s")
            else:
                say(f"{self.name} restarted, pid {self.pid}")

    def _judge(self, say: Callable[[str], None]) -> None:
        """Ends the process if it no longer works: SIGTERM, and SIGKILL `stop_rounds` later."""
        if self.kill_in is None:
            if self.liveness is None or self.stopping or (why := self.liveness.round(self.pid)) is None:
                return
            say(f"{self.name} {why}; ending it, to start it again (log: {self.log})")
            self.kill_in = self.stop_rounds
            self.request_stop()
        self.kill_in -= 1
        if self.kill_in <= 0 and self.process is not None:
            family = _family(self.pid)
            self.process.kill()
            _kill(family)

    def request_stop(self) -> None:
        """Send SIGTERM, once; returns at once."""
        if self.process is not None and self.alive and not self.stopping:
            self.stopping = True
            self.process.terminate()

    def stop(self, seconds: float, hurry: Callable[[], bool]) -> bool:
        """Sends SIGTERM, then SIGKILL after `seconds`, or once `hurry` returns True; also kills its descendants.

        Returns False if the process had to be killed.
        """
        if self.process is None:
            return True
        family = _family(self.pid) if self.alive else []
        self.request_stop()
        deadline = time.monotonic() + seconds
        while self.alive and time.monotonic() < deadline and not hurry():
            time.sleep(0.05)
        ended = not self.alive
        if not ended:
            self.process.kill()
        left = _running_after(family, seconds=2.0 if ended else 0.0)
        _kill(left)
        self.process.wait()
        _running_after(left, seconds=5.0)
        return ended

    def last_lines(self, count: int = 15) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 20_000))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])
        except OSError:
            return ""

    def _how_it_ended(self) -> str:
        code = self.process.returncode if self.process is not None else None
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def keep_small(log: Path, most: int) -> None:
    """Moves the content of a log with more than `most` bytes to a file next to it, in place of what is there; without
    room for that, discards it. The part that writes the log appends to it, and notices nothing."""
    try:
        if log.stat().st_size <= most:
            return
    except OSError:
        return
    older = log.with_suffix(".log.1")
    try:
        shutil.copyfile(log, older)
    except OSError:
        with suppress(OSError):
            older.unlink()
    with suppress(OSError):
        os.truncate(log, 0)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _family(pid: int) -> list[psutil.Process]:
    """The descendants of `pid`, by pid and start time. To be called before it ends: then they get another parent."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _running_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those of the processes that still run once all have ended or `seconds` have passed.

    A descendant whose parent has ended is a zombie until init collects it, which may take a second: it has ended.
    """
    deadline = time.monotonic() + seconds
    while (left := list(filter(_runs, processes))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_with_parent(parent: int) -> Callable[[], None] | None:
    """A preexec_fn by which the kernel sends the child a SIGTERM when its parent dies; None except on Linux.

    A handler in the parent would not run after a SIGKILL. SIGTERM, not SIGKILL, lets the worker release its jobs.
    `gradq up` has no threads, so running Python between fork and exec is safe.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the prctl
            os._exit(1)

    return ask
