"""gunicorn's worker process: the poller reads each request, and a thread gets it once that needs no waiting.

gunicorn's own `ThreadWorker` reads heads and bodies in its threads, and closes connections in the poller, which it
stops for up to two seconds each; a few hundred clients that send half a request, or do not close, stop it for all.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import mmap
import selectors
import signal
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from api.connections.client_socket import ClientSocket, ClientTooSlow
from api.connections.clients import Clients
from api.connections.incoming import MAX_HEAD_BYTES, IncomingRequest
from api.connections.threads import Threads
from api.connections.turns import Turns
from api.http.errors import PROBLEM
from api.http.security_headers import HEADERS
from shared.logs import LONGEST_PATH

MAX_PROCESSES = 1024
# how much later a process accepts the next connection, per connection that it has more than the process with the fewest
HEAD_START_SECONDS = 0.001
MAX_DELAY_SECONDS = 0.02
NEVER = -math.inf
NOTIFY_SECONDS = 0.2  # between two signs of life for the parent process, which waits for a minute

REQUEST_SECONDS = 20.0  # from the first byte of a request, or from accept(), until its head and small body are complete
MAX_INCOMING = 512  # requests that are incomplete; beyond it, the oldest of the address with the most is closed
CLOSING_SECONDS, CLOSING_BYTES = 2.0, 256 << 10  # for which a closed connection is read, so that the response arrives
STOPPING_SECONDS = 1.0  # REQUEST_SECONDS of a process that shuts down
RECV_BYTES = 16 << 10
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# errors of the connection that accept() reports, see accept(2)
OF_THE_CLIENT = (
    *(errno.EAGAIN, errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
)
NO_DESCRIPTOR_SECONDS = 0.01
HEALTH_CHECKS = (b"GET /healthz ", b"HEAD /healthz ")
HEALTH_THREADS = 2
NEXT_PROCESS_SECONDS = 1.0  # after one that could not start its threads

# not caused by the request
SERVER_ERRORS = (
    errors.InvalidResponseHeader,
    errors.InvalidResponseHeaderName,
    errors.ConfigurationProblem,
)

# number of connections per process, in memory shared by all processes
_connections = memoryview(mmap.mmap(-1, 4 * MAX_PROCESSES)).cast("i")
NO_PROCESS = -1  # or one that does not accept
MOST_NUMBERS = 64  # of processes that are looked at
for _number in range(MAX_PROCESSES):
    _connections[_number] = NO_PROCESS


class Connection(TConn):
    """A client's connection. It is either in the poller (idle, with an incomplete request, or closing) or in a
    thread."""

    def __init__(self, cfg: Any, sock: ClientSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        self.data_ready = True  # no thread waits for the first byte
        self.address = client[0] if isinstance(client, tuple) else ""
        self.client_key: Hashable = None  # for which the request is counted
        self.incoming = IncomingRequest(cfg.limit_request_line)
        self.since = time.monotonic()  # of the incomplete request, or of closing
        self.discarded = 0  # bytes received while closing


class Worker(ThreadWorker):
    """Lets processes with fewer connections accept the next one."""

    number: int  # index in `_connections`, set before the fork

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.incoming: dict[Connection, None] = {}  # with an incomplete request, the oldest first
        self.incoming_by_address: Counter[str] = Counter()
        self.closing: dict[Connection, None] = {}  # the oldest first
        self.notify_at = NEVER  # monotonic
        self.clients = Clients()
        self.turns: Turns[Connection] = Turns()  # requests that are complete, and wait for a thread
        self.submitted: set[Connection] = set()  # with a request that a thread has or gets, but for health checks
        self.accepts_at = NEVER  # monotonic: end of the others' head start for the next connection

    def init_signals(self) -> None:
        super().init_signals()
        # a terminal that is closed sends it to all processes; the parent acts on it
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def get_thread_pool(self) -> Threads:
        """Start all threads: the poller would wait for each that starts later until it has had the interpreter. Takes
        0.1 ms and 20 KB each."""
        try:
            self.health_threads = Threads(HEALTH_THREADS, "health")
            return Threads(self.cfg.threads, "request")
        except RuntimeError as error:
            self.log.error("this process cannot start its threads, and another one is started: %s", error)
            time.sleep(NEXT_PROCESS_SECONDS)
            sys.exit(1)  # any other error before the first request ends the parent, with the processes that serve

    def enqueue_req(self, conn: Connection) -> None:
        """Health checks have threads of their own. If a hundred requests arrive at once, each of their threads waits
        for the interpreter before it takes the next request, and the last one waits for over a second; whoever asks
        for the health of this process might end it."""
        conn.sock.owner = None
        if conn.incoming.received.startswith(HEALTH_CHECKS):
            self.health_threads.submit(partial(self._serve, conn))
        else:
            conn.client_key = self.clients.find(conn.incoming.credentials, conn.address)
            self.turns.add(conn.client_key, conn)
            self._take_turns()

    def _take_turns(self) -> None:
        while self._has_thread and (conn := self.turns.take(time.monotonic())) is not None:
            self.submitted.add(conn)
            conn.sock.on_waiting = partial(self.method_queue.defer, self.turns.end, conn)
            self.tpool.submit(partial(self._serve, conn))

    @property
    def _has_thread(self) -> bool:
        """Whether a thread is free, or will be in a moment: its request is answered."""
        return len(self.submitted) < self.cfg.threads

    def take_number(self, taken: set[int]) -> None:
        """Choose an index that no other process has. The process counts from the first iteration of its loop on, until
        it stops accepting."""
        self.number = next(number for number in itertools.count() if number not in taken)
        _connections[self.number] = NO_PROCESS

    def leave_number(self) -> None:
        """Called in the parent process when this one has ended."""
        _connections[self.number] = NO_PROCESS

    def notify(self) -> None:
        """Called once per iteration of the worker's loop."""
        if (now := time.monotonic()) >= self.notify_at:
            super().notify()
            self.notify_at = now + NOTIFY_SECONDS
        _connections[self.number] = self.nr_conns if self.alive else NO_PROCESS

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        if self.alive and not self._accepting and (left := self.accepts_at - time.monotonic()) > 0:
            timeout = min(timeout, left)
        if self._has_thread:  # else the next response leads here again
            timeout = min(timeout, self.turns.seconds_left(time.monotonic()))
        listened, accepts_at = self._accepting, self.accepts_at
        super().wait_for_and_dispatch_events(timeout)
        self._take_turns()
        if listened and self.accepts_at == accepts_at:  # another process has accepted the connection
            self.accepts_at = NEVER

    def set_accept_enabled(self, enabled: bool) -> None:
        """Called with True once per iteration of the worker's loop, unless the process has all its connections."""
        if not enabled or time.monotonic() >= self.accepts_at:
            super().set_accept_enabled(enabled)

    # --- reading ------------------------------------------------------------------------------------------------------

    def accept(self, listener: Any) -> None:
        counts = (each for each in _connections[:MOST_NUMBERS] if each != NO_PROCESS)
        more = self.nr_conns - min(counts, default=self.nr_conns)
        if more > 0 and self.accepts_at == NEVER:
            self.accepts_at = time.monotonic() + min(more * HEAD_START_SECONDS, MAX_DELAY_SECONDS)
            self.set_accept_enabled(False)
            return
        self.accepts_at = NEVER
        if self.nr_conns >= self.worker_connections - 1:  # at this number the loop accepts no more
            self._make_room()
        try:
            accepted, client = listener.accept()
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                self._make_room()
                time.sleep(NO_DESCRIPTOR_SECONDS)
            elif error.errno not in OF_THE_CLIENT:
                raise
            return
        self.nr_conns += 1
        _connections[self.number] = self.nr_conns
        self._begin(Connection(self.cfg, ClientSocket(accepted), client, listener.getsockname()))

    def on_client_socket_readable(self, conn: Connection, client: ClientSocket) -> None:
        """A kept connection has data."""
        try:
            self.keepalived_conns.remove(conn)
        except ValueError:  # closed by an earlier event of the same round
            return
        self.poller.unregister(client)
        self._begin(conn)

    def _begin(self, conn: Connection) -> None:
        """Receive once; the request then goes to a thread, or stays in the poller until it is complete."""
        conn.since = time.monotonic()
        if (proceed := self._receive(conn)) is not None:
            proceed(conn)
        else:
            self._await(conn)

    def _await(self, conn: Connection) -> None:
        self.incoming[conn] = None
        self.incoming_by_address[conn.address] += 1
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_incoming_readable, conn))
        if len(self.incoming) > MAX_INCOMING:
            self._close_an_incoming()

    def _on_incoming_readable(self, conn: Connection, client: ClientSocket) -> None:
        if conn in self.incoming and (proceed := self._receive(conn)) is not None:
            self._forget_incoming(conn)
            proceed(conn)

    def _forget_incoming(self, conn: Connection) -> None:
        del self.incoming[conn]
        self.incoming_by_address -= Counter((conn.address,))  # drops addresses whose count is 0
        self.poller.unregister(conn.sock)

    def _receive(self, conn: Connection) -> Callable[[Connection], None] | None:
        """Receive once. Returns what happens to the connection now; None: the request is still incomplete."""
        try:
            data = conn.sock.recv(RECV_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return self._close
        if data:
            conn.incoming.add(data)
        else:
            conn.incoming.end()
        return self._after(conn) or (None if data else self._close)

    def _after(self, conn: Connection) -> Callable[[Connection], None] | None:
        """What happens to the connection after what has been received of its request; None: it is incomplete."""
        if conn.incoming.is_too_large:
            return self._refuse_head
        return self._hand_over if conn.incoming.is_ready else None

    def _refuse_head(self, conn: Connection) -> None:
        self._refuse(conn, errors.LimitRequestHeaders(f"the request's head exceeds {MAX_HEAD_BYTES} bytes"))

    def _refuse(self, conn: Connection, error: errors.ParseException) -> None:
        with suppress(OSError):
            self.handle_error(None, conn.sock, conn.client, error)
        self._close_slowly(conn)

    def _hand_over(self, conn: Connection) -> None:
        """Give the request to a thread, which parses it."""
        conn.init()
        conn.sock.is_body_incoming = conn.incoming.is_body_incoming
        conn.parser.unreader.unread(bytes(conn.incoming.received))
        self.enqueue_req(conn)

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _serve(self, conn: Connection) -> None:
        keep = False
        try:
            keep = self.handle(conn)
        except BaseException:
            self.log.exception("a request failed outside the app")
        finally:
            self.method_queue.defer(self.finish_request, conn, keep)

    def handle(self, conn: Connection) -> Any:
        try:
            return super().handle(conn)
        finally:
            conn.sock.end_request()

    def _keepalive_after(self, conn: Connection, keepalive: Any) -> bool:
        """gunicorn waits here for what the app has not read of the body; that is what clients of refused uploads send,
        and now only read as far as it is there."""
        conn.sock.end_request()
        try:
            return bool(super()._keepalive_after(conn, keepalive))
        except (ClientTooSlow, errors.ParseException):  # the response is sent: a refusal would be a second one
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Called for requests that do not reach the app."""
        if not isinstance(exc, errors.ParseException) or isinstance(exc, SERVER_ERRORS):
            super().handle_error(req, client, addr, exc)
            return
        why = str(exc)[:LONGEST_PATH]  # it has the refused line or header
        self.log.warning("request refused: %s", why)
        util.write_nonblock(client, refusal(REFUSALS.get(type(exc), HTTPStatus.BAD_REQUEST), why))

    # --- after a request ----------------------------------------------------------------------------------------------

    def finish_request(self, conn: Connection, keep: bool) -> None:
        """Called in the poller's thread when a thread has responded. `keep`: the client may send another request."""
        self.turns.end(conn)
        self.submitted.discard(conn)
        if conn.sock.owner is not None and conn.client_key == conn.address:
            self.clients.learn(conn.incoming.credentials, conn.sock.owner)
        if not keep:
            self._close_slowly(conn)
            return
        conn.incoming = IncomingRequest(self.cfg.limit_request_line)
        if ahead := conn.parser.unreader.take_buffered():  # the beginning of the next request
            conn.since = time.monotonic()
            conn.incoming.add(ahead)
            (self._after(conn) or self._await)(conn)
            return
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOPPING_SECONDS)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def murder_pending(self) -> None:
        """Called once per iteration of the worker's loop, at least once per second."""
        now, seconds = time.monotonic(), REQUEST_SECONDS if self.alive else STOPPING_SECONDS
        while (oldest := next(iter(self.incoming), None)) is not None and now - oldest.since > seconds:
            self._forget_incoming(oldest)
            if oldest.incoming.received:
                self._refuse(oldest, RequestTooSlow(f"the request is incomplete after {seconds:.0f} s"))
            else:
                self._close(oldest)
        while (oldest := next(iter(self.closing), None)) is not None and now - oldest.since > CLOSING_SECONDS:
            self._forget_closing(oldest)

    # --- closing ------------------------------------------------------------------------------------------------------

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.close()

    def _close_slowly(self, conn: Connection) -> None:
        """End the response, and read on for a moment what the client is still sending: if unread data were there when
        the connection is closed, the kernel would reset it, and the client might not get the response (RFC 9112,
        section 9.6)."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        conn.since, conn.discarded = time.monotonic(), 0
        self.closing[conn] = None
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_closing_readable, conn))

    def _on_closing_readable(self, conn: Connection, client: ClientSocket) -> None:
        if conn not in self.closing:
            return
        try:
            data = client.recv(RECV_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.discarded += len(data)
        if not data or conn.discarded > CLOSING_BYTES:
            self._forget_closing(conn)

    def _forget_closing(self, conn: Connection) -> None:
        del self.closing[conn]
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close_an_incoming(self) -> None:
        """Close the oldest incomplete request of the address that has most of them."""
        [(address, _)] = self.incoming_by_address.most_common(1)
        oldest = next(conn for conn in self.incoming if conn.address == address)
        self._forget_incoming(oldest)
        self._close(oldest)

    def _make_room(self) -> None:
        """Close a connection that no thread works for, so that the next one can be accepted."""
        if self.closing:
            self._forget_closing(next(iter(self.closing)))
        elif self.incoming:
            self._close_an_incoming()
        elif self.keepalived_conns:
            idle = self.keepalived_conns.popleft()
            self.poller.unregister(idle.sock)
            self._close(idle)


class RequestTooSlow(errors.ParseException):
    """The head or a small body is incomplete after REQUEST_SECONDS."""


REFUSALS: dict[type[errors.ParseException], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    RequestTooSlow: HTTPStatus.REQUEST_TIMEOUT,
}


def refusal(status: HTTPStatus, detail: str) -> bytes:
    """The bytes of a complete response with a problem; the connection is closed after it."""
    code, request_id = status.phrase.lower().replace(" ", "_").replace("-", "_"), uuid.uuid4().hex
    body = {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
        "instance": "",  # the path is unknown: the request line could not be parsed
        "request_id": request_id,
    }
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Connection: close",
        f"Content-Type: {PROBLEM}",
        f"Content-Length: {len(content)}",
        f"X-Request-Id: {request_id}",
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    )
    return "\r\n".join([*head, "", ""]).encode() + content
