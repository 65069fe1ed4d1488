"""A proxy that serves a service below a path, as `https://host/gradq/`: strips the path, and names it in a header."""

from __future__ import annotations

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 1 << 16
OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "date", "server")


class PrefixProxy:
    """Serves `upstream` (host:port) at `address`, until it is closed. What is not below the prefix is a 404."""

    def __init__(self, upstream: str, prefix: str = "/gradq") -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(upstream, prefix))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}{prefix}"
        threading.Thread(target=self._server.serve_forever, name="prefix-proxy", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(upstream: str, prefix: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404, f"not below {prefix}")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            sent = {name: value for name, value in self.headers.items() if name.lower() not in OF_ONE_CONNECTION}
            there = http.client.HTTPConnection(upstream, timeout=120)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(there):
                there.request(
                    self.command, self.path.removeprefix(prefix), body, {**sent, "X-Forwarded-Prefix": prefix}
                )
                self._answer(there.getresponse())

        def _answer(self, found: http.client.HTTPResponse) -> None:
            self.send_response(found.status)
            for name, value in found.getheaders():
                if name.lower() not in OF_ONE_CONNECTION:
                    self.send_header(name, value)
            ends = found.getheader("Content-Length") is not None or found.status in (204, 304)
            if not ends:  # a stream: its end is that of the connection
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            while part := found.read1(CHUNK):
                self.wfile.write(part)
                self.wfile.flush()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _forward

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
