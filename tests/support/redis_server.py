"""A private Redis on a unix socket, for tests that kill it, suspend it or read its queue."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from support.postgres import part_missing
from support.waiting import wait_for

from shared.broker import QUEUE, Broker


class Server:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        from gradq.local.broker_process import find_binary
        from shared.errors import ConfigurationError

        try:
            binary = find_binary()
        except ConfigurationError as error:
            part_missing(str(error))
        self.socket = folder / "s"
        self.url = f"redis+socket://{self.socket}"
        self.process = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(folder)],
            stdout=subprocess.DEVNULL,
        )
        self.client = Redis(unix_socket_path=str(self.socket))
        wait_for(Broker(self.url).ping, 30, "the server to answer")

    def messages(self) -> list[dict[str, object]]:
        return [json.loads(message) for message in self.client.lrange(QUEUE, 0, -1)]

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@contextmanager
def redis_server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="gradq-b-"))  # tmp_path is too long for a socket
    started = Server(folder)
    yield started
    started.close()
    shutil.rmtree(folder)
