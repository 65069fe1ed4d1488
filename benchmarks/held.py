"""The cost of waiting clients for others: `gradq api` with its default settings holds 50 streams and 50 long polls.

Claim: all 100 are held, and the 95th percentile of a submit stays under 150 ms. For comparison: the same submits
without waiting clients. Also measured: the CPU time of the processes while 100 clients wait and nothing happens, and
the time from a job's cancellation until each client that waits for it is notified. No worker runs, only the API.
"""

from __future__ import annotations

import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psutil

from benchmarks.support import SMALL_JOB, api, parser, publish, say, summary
from gradq import Client

CLAIM = "with 50 streams and 50 long-polls held, 95 of 100 submits are answered within 150 ms"
LIMIT_MS = 150
STREAMS, POLLS = 50, 50
CLIENTS = 4
SETTLE_SECONDS, IDLE_SECONDS = 1.0, 5.0
NOTIFY_SECONDS = 20.0


def main() -> None:
    options = parser(__doc__, "held")
    options.add_argument("--submits", type=int, default=200)
    asked = options.parse_args()
    with api() as client:
        submits(client, 20)  # warms up caches
        alone = submits(client, asked.submits)
        say(f"submits without waiting clients: {alone}")
        job = client.submit(SMALL_JOB)["links"]
        waiting = [ask(client.url, job["events"], "Accept: text/event-stream") for _ in range(STREAMS)]
        for stream in waiting:
            until_begun(stream)
        waiting += [ask(client.url, f"{job['self']}?wait=60&until=terminal") for _ in range(POLLS)]
        time.sleep(SETTLE_SECONDS)
        beside = submits(client, asked.submits)
        say(f"submits with {len(waiting)} waiting clients: {beside}")
        early = answered(waiting)
        waiting = [connection for connection in waiting if connection not in early]
        threads = [process.num_threads() for process in servers()]
        idle = cpu_seconds()
        time.sleep(IDLE_SECONDS)
        idle = cpu_seconds() - idle
        heard = notification_delays(client, job["self"], waiting)
    figures = {
        "streams": STREAMS,
        "long_polls": POLLS,
        "held": len(waiting),
        "threads_by_process": threads,
        "submit_ms": beside,
        "submit_ms_while_nobody_waits": alone,
        "cores_used_by_waiting": round(idle / IDLE_SECONDS, 3),
        "heard_ms": heard,
        "claim_holds": len(waiting) == STREAMS + POLLS and beside["p95"] <= LIMIT_MS,
    }
    publish("held", CLAIM, figures, asked.save)


def submits(client: Client, count: int) -> dict[str, float]:
    """Milliseconds until a submit is answered, with `CLIENTS` submits at a time."""

    def one(_: int) -> float:
        began = time.perf_counter()
        client.submit(SMALL_JOB)
        return 1000 * (time.perf_counter() - began)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return summary(list(pool.map(one, range(count))))


def ask(url: str, path: str, *headers: str) -> socket.socket:
    """A connection on which a request was sent; nothing is read."""
    where = urlsplit(url)
    connection = socket.create_connection((where.hostname, where.port), timeout=NOTIFY_SECONDS)
    connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
    return connection


def until_begun(stream: socket.socket) -> None:
    """Read the first event of the log, so that only later events can be read afterwards."""
    got = b""
    while b"job queued" not in got:
        more = stream.recv(1 << 16)
        got += more
        if not more or b" 503 " in got[:20]:
            raise SystemExit(f"a stream was refused: {got.decode()}")


def answered(waiting: list[socket.socket]) -> list[socket.socket]:
    """The connections that were answered; the others are still held. A stream's keep-alive comment is not an answer."""
    ready = select.select(waiting, [], [], 0)[0]
    return [connection for connection in ready if connection.recv(1 << 16) != b"3\r\n:\n\n\r\n"]


def notification_delays(client: Client, path: str, waiting: list[socket.socket]) -> dict[str, float]:
    """Cancel the job; milliseconds until each waiting client is notified."""
    job_id = path.rpartition("/")[2]
    began = time.perf_counter()
    client.job(job_id, fetch=False).cancel()
    heard, left = [], list(waiting)
    while left:
        ready = select.select(left, [], [], NOTIFY_SECONDS)[0]
        if not ready:
            raise SystemExit(f"{len(left)} of {len(waiting)} clients were not notified of the cancelled job")
        for connection in ready:
            received = connection.recv(1 << 16)
            if not received:
                raise SystemExit("a connection was closed before its client was notified")
            if b"cancelled" in received:
                heard.append(1000 * (time.perf_counter() - began))
                left.remove(connection)
    return summary(heard)


def servers() -> list[psutil.Process]:
    """gunicorn's worker processes."""
    ours = [child for child in psutil.Process().children() if "gunicorn" in " ".join(child.cmdline())]
    return [worker for master in ours for worker in master.children()]


def cpu_seconds() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in servers())


if __name__ == "__main__":
    main()
