"""A TCP port that forwards to another address until a test cuts the connection."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, as a peer that does not know the connection


class Cable:
    """Forwards bytes both ways. While it is cut nothing is forwarded, and neither end sees a closed connection.
    `port`: 0 for one that the kernel chooses. `forwarded`: how many bytes, both ways."""

    def __init__(self, connect: Callable[[], socket.socket], port: int = 0) -> None:
        self._connect = connect
        self._whole = threading.Event()
        self._whole.set()
        self._ends: set[socket.socket] = set()
        self.forwarded = 0
        self._lock = threading.Lock()
        self.port = port
        self._listen()

    def cut(self) -> None:
        self._whole.clear()

    def refuse(self) -> None:
        """Close all connections and refuse new ones, as if no server were there."""
        self._stop_listening()
        self._hang_up()

    def mend(self, reset: bool = False) -> None:
        """Forward again, beginning with the bytes that waited; `reset` closes all connections, as a router's reboot."""
        if reset:
            self._hang_up()
        if self._listener.fileno() < 0:
            self._listen()
        self._whole.set()

    def close(self) -> None:
        self.refuse()
        self._whole.set()

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept(), which close() does not
        self._listener.close()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), name=f"cable-{self.port}", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = self._connect()
        except OSError:
            near.close()
            return
        with self._lock:
            self._ends |= {near, far}
        for one, other in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end may disconnect at any time
            while data := one.recv(CHUNK):
                self._whole.wait()
                with self._lock:
                    self.forwarded += len(data)
                other.sendall(data)
        self._whole.wait()
        for end in (one, other):
            self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        with self._lock:
            self._ends.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def _hang_up(self) -> None:
        with self._lock:
            ends = list(self._ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._drop(end)


def to_socket(path: str) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.connect(path)
        return end

    return connect


def to_port(port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection(("127.0.0.1", port))
