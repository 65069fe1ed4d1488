"""Starts trainer processes, forked from a server that has torch imported: 10 ms each instead of a second."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import structlog

if TYPE_CHECKING:
    from worker.plan import Plan

PRELOAD = "worker.trainer.preload"  # named, not imported: importing it would bring torch into this process
WARM_UP_SECONDS = 120.0
FORK_SECONDS = 30.0  # a fork takes 10 ms; a server that hangs is replaced
FORK_TRIES = 3
DRAW_SECONDS = 60.0  # the pictures of a job take a third of a second
DYING_SECONDS = 0.1
REAP_SECONDS = 5.0
UNREACHABLE = (FileNotFoundError, ConnectionRefusedError)  # the server's socket is gone, or it listens no more

log = structlog.get_logger()


@dataclass(frozen=True)
class Trainer:
    """A process that the trainer server has forked, this end of its pipe, and a handle that detects a reused pid."""

    process: BaseProcess
    pipe: Connection
    handle: psutil.Process

    def request_stop(self) -> None:
        """Send SIGTERM: the trainer finishes the step, writes a checkpoint and ends."""
        self._signal(os.kill, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process group, and to the process itself, which may not lead a group yet."""
        self._signal(os.killpg, signal.SIGKILL)
        self._signal(os.kill, signal.SIGKILL)

    def end(self) -> None:
        """Kill what is left and wait until it is gone. Its exit code is known then, unless the server is gone too."""
        self.kill()
        self.process.join(REAP_SECONDS)
        self.pipe.close()

    def alive(self) -> bool:
        """Whether the process runs. Does not depend on the server that forked it, which may be dead."""
        try:
            return self.handle.is_running() and self.handle.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _signal(self, send: Any, number: signal.Signals) -> None:
        try:
            if self.handle.is_running():
                send(self.handle.pid, number)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess) as error:
            log.debug("no process to signal", pid=self.handle.pid, error=str(error))


class Launcher:
    """Owns the server that trainers are forked from, and replaces it when it dies or hangs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOAD, __name__])
        self._lock = threading.Lock()
        self._warm = False  # whether the server has responded: a new one imports torch first

    def begin(self) -> None:
        """Start the server, which then imports torch while this process does other things."""
        with self._lock:
            forkserver.ensure_running()

    def warm_up(self) -> None:
        """Start the server and wait until it has imported torch. Raises RuntimeError after WARM_UP_SECONDS."""
        _, pipe = self._start("warm_up")
        if not pipe.poll(WARM_UP_SECONDS):
            raise RuntimeError(f"the trainer server did not come up within {WARM_UP_SECONDS:.0f} s")
        pipe.recv()
        pipe.close()

    def start(self, plan: Plan) -> Trainer:
        """Fork a trainer that runs `plan`.

        Raises EOFError, OSError or RuntimeError when no trainer server can be started, and psutil.NoSuchProcess for a
        trainer that is gone at once.
        """
        return self._started("run", plan)

    def draw(self, source: Path, folder: Path) -> list[Path]:
        """Draw the pictures of the drawing in `source` into the folder, in a process of their own; this one has neither
        numpy nor matplotlib. Returns their paths.

        Raises what `start` does, and ValueError if the process fails, dies, or takes more than DRAW_SECONDS.
        """
        drawing = self._started("draw", source, folder)
        try:
            error = drawing.pipe.recv() if drawing.pipe.poll(DRAW_SECONDS) else f"not drawn after {DRAW_SECONDS:.0f} s"
        except EOFError:
            error = "the process that draws has died"
        finally:
            drawing.end()
        if error is not None:
            raise ValueError(error)
        return sorted(folder.iterdir())

    def _started(self, entry: str, *given: Any) -> Trainer:
        process, pipe = self._start(entry, *given)
        assert process.pid is not None
        try:
            return Trainer(process, pipe, psutil.Process(process.pid))
        except psutil.Error:
            pipe.close()
            raise

    def _start(self, entry: str, *given: Any) -> tuple[BaseProcess, Connection]:
        """Fork a process that calls `entry` of worker/trainer/process.py with its end of a pipe and what is given."""
        ours, theirs = self._context.Pipe(duplex=False)
        try:
            arguments = (entry, theirs, *given)
            for _ in range(FORK_TRIES - 1):
                try:
                    return self._fork(arguments), ours
                except (EOFError, OSError) as error:
                    log.warning("the trainer server is gone; starting another", error=str(error))
                    if isinstance(error, UNREACHABLE):
                        _kill_server("has no address")  # multiprocessing replaces a server that is dead, and no other
                        Path(util.get_temp_dir()).mkdir(mode=0o700, exist_ok=True)  # what cleans /tmp takes this, too
                    time.sleep(DYING_SECONDS)  # its end of the pipe closes before the kernel reports it as dead
            return self._fork(arguments), ours
        finally:
            theirs.close()  # while it is open here, the pipe does not end with the trainer

    def _fork(self, arguments: tuple[Any, ...]) -> BaseProcess:
        with self._lock:
            process = self._context.Process(target=enter, args=arguments)
            warm, self._warm = self._warm, False
            with server_answers_within(FORK_SECONDS if warm else WARM_UP_SECONDS):
                process.start()
            self._warm = True
            return process


@contextlib.contextmanager
def server_answers_within(seconds: float) -> Iterator[None]:
    """Kill a trainer server that hangs: `Process.start()` waits for it without a timeout, and gets EOFError then.

    Trainers that it has forked before keep running.
    """
    timer = threading.Timer(seconds, _kill_server, ["did not respond"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill_server(why: str) -> None:
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # its pid has no public accessor
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, signal.SIGKILL)
        log.error(f"the trainer server {why} and was killed", pid=pid)


def enter(entry: str, pipe: Connection, *given: Any) -> None:
    """Entry of the forked process. The server has imported the trainer already: the import here takes no time."""
    from worker.trainer import process

    getattr(process, entry)(pipe, *given)
