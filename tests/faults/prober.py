"""`python prober.py PORT FILE`: asks an API for /healthz until it is killed, in a process of its own.

Each probe has a new connection. It appends a line of JSON: when the probe began (monotonic clock, which all processes
of a machine share), how many seconds the answer took, the status (0: none), and for how many of these seconds this
process itself was not run although it had something to do, which a busy machine adds to the API's time too.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from pathlib import Path

EVERY_SECONDS = 0.25
PATIENCE_SECONDS = 10.0  # then the probe counts as unanswered
TICK_SECONDS = 0.02
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def probe(port: int) -> dict[str, float]:
    began = time.monotonic()
    late, answer = 0.0, b""
    with socket.socket() as end, selectors.DefaultSelector() as selector:
        end.setblocking(False)
        end.connect_ex(("127.0.0.1", port))
        selector.register(end, selectors.EVENT_WRITE)
        asked = False
        while time.monotonic() - began < PATIENCE_SECONDS:
            before = time.monotonic()
            ready = selector.select(TICK_SECONDS)
            late += max(0.0, time.monotonic() - before - TICK_SECONDS)
            if not ready:
                continue
            try:
                if asked:
                    answer += (received := end.recv(4096))
                    if b"\r\n" in answer or not received:
                        break
                else:
                    end.send(REQUEST)
                    asked = True
                    selector.modify(end, selectors.EVENT_READ)
            except OSError:  # refused or reset
                break
    status = int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
    return {"at": began, "seconds": time.monotonic() - began, "status": status, "late": late}


def main(port: str, file: str) -> None:
    with Path(file).open("a", buffering=1) as lines:
        while True:
            lines.write(json.dumps(probe(int(port))) + "\n")
            time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
