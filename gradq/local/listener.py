"""The API's listening socket, opened before the API: a port in use fails at once, with the reason."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import ConfigurationError


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """The API's listening socket. Opened here, so that a port in use fails at once and port 0 gets a free one without a
    race; the API inherits it, also after a restart. Raises ConfigurationError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError as error:
        raise ConfigurationError(f"--host {host}: not the name of a host") from error
    except socket.gaierror as error:
        raise ConfigurationError(f"--host {host}: {error.strerror}") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(512)
        except OSError as error:
            hint = "; another service uses this port, choose one with --port (0: any free one)"
            hint = hint if error.errno == errno.EADDRINUSE else ""
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from error
        yield listener


def local_address(listener: socket.socket) -> tuple[str, int]:
    """Host and port of the listener for clients on this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:  # it listens on all addresses
        host = "::1" if ":" in host else "127.0.0.1"
    return host, port


def address_of(listener: socket.socket) -> str:
    """The URL of the listener for clients on this machine."""
    host, port = local_address(listener)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
