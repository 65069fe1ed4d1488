"""Whether a part that runs also works: a worker by the heartbeat of its maintenance loop, the API by its answers.

Both count rounds of the loop of `gradq up`, of a tenth of a second each, not seconds: after a suspension of the machine
none is missing, and on a machine that is too busy they take longer.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared import heartbeat

SILENT_ROUNDS = 3000  # without a beat: 5 minutes. One round of maintenance may wait long for a store that is away
PAUSE_ROUNDS = 300  # between two requests to the API
ANSWER_ROUNDS = 100  # within which it answers
FAILURES = 6  # in a row
NOT_YET = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOTCONN, errno.EALREADY, errno.EINPROGRESS)
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: gradq-up\r\nConnection: close\r\n\r\n"
HTTP, SUCCESS = b"HTTP/1.", b"HTTP/1.1 200"


class Liveness(Protocol):
    def round(self, pid: int) -> str | None:
        """To be called once per round. Returns why the process with that pid has to be replaced; None if it works."""


@dataclass
class HeartbeatWatch:
    """Watches the worker's heartbeat. A worker without one, for lack of a place, is not judged."""

    state_dir: Path
    silent_rounds: int = SILENT_ROUNDS
    _seen: tuple[int, int] = (0, 0)  # pid, its beats
    _silent: int = 0

    def round(self, pid: int) -> str | None:
        beat = heartbeat.of_process(self.state_dir, pid)
        now = (pid, 0 if beat is None else beat.rounds)
        self._silent = self._silent + 1 if now == self._seen and beat is not None else 0
        self._seen = now
        return "shows no heartbeat" if self._silent >= self.silent_rounds else None


class Request:
    """One `GET /healthz` to the API, which never waits."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.socket(_family(address[0]), socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.connect_ex(address)
        self._sent = False

    def answer(self) -> bytes | None:
        """The beginning of the answer; empty if there will be none, None if there is none yet."""
        try:
            if not self._sent:
                self._socket.send(REQUEST)
                self._sent = True
            return self._socket.recv(len(SUCCESS))
        except OSError as error:
            return None if error.errno in NOT_YET else b""

    def close(self) -> None:
        self._socket.close()


@dataclass
class AnswerWatch:
    """Sends requests to the API, without waiting in any round. An answer of any status will do."""

    address: tuple[str, int]
    pause_rounds: int = PAUSE_ROUNDS
    answer_rounds: int = ANSWER_ROUNDS
    failures: int = FAILURES
    _pid: int = 0
    _failed: int = 0
    _rounds: int = 0  # until the next request, or until an answer is too late
    _request: Request | None = None

    def round(self, pid: int) -> str | None:
        if pid != self._pid:
            self._pid, self._failed = pid, 0
            self._wait(self.pause_rounds)
        self._rounds -= 1
        if self._request is None:
            if self._rounds <= 0:
                self._ask()
            return None
        answer = self._request.answer()
        if answer is None and self._rounds > 0:
            return None
        answered = answer is not None and answer.startswith(HTTP)
        self._failed = 0 if answered else self._failed + 1
        self._wait(self.pause_rounds if answered else self.answer_rounds)
        return "does not answer requests" if self._failed >= self.failures else None

    def _wait(self, rounds: int) -> None:
        if self._request is not None:
            self._request.close()
        self._request, self._rounds = None, rounds

    def _ask(self) -> None:
        if _is_here(self.address[0]):
            self._request, self._rounds = Request(self.address), self.answer_rounds
        else:
            self._wait(self.pause_rounds)  # a network that is gone says nothing of the process


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_here(host: str) -> bool:
    """Whether this machine has the address; not after a change of the network, for example."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
