"""Whether the server's sockets are reachable from this machine only."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from api.server import _is_private


@pytest.mark.parametrize(
    ("family", "address", "private"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "127.1.2.3", True),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET6, "::", False),
    ],
)
def test_a_loopback_address_is_this_machines_alone(family: socket.AddressFamily, address: str, private: bool) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        assert _is_private(listener) is private


def test_a_unix_socket_is_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert _is_private(listener)
