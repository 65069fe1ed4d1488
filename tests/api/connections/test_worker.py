"""What the poller of a server process does with connections: it reads, hands over, refuses and closes."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from api.connections import incoming, turns
from api.connections import worker as module
from api.connections.turns import LONGEST_SECONDS
from api.connections.worker import CLOSING_SECONDS, REQUEST_SECONDS, Connection, Worker
from api.monitoring import request_counts
from api.server import child_exit

GET = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
GET_JOBS = b"GET /v1/jobs HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n\r\n"


class Process:
    """A worker's poller without its loop, its threads and its app: `requests` has what was handed to a thread."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.clients: list[socket.socket] = []
        self.requests: list[Connection] = []
        self.begun: SimpleQueue[str] = SimpleQueue()  # paths, where a test has threads
        self.responded: SimpleQueue[str] = SimpleQueue()
        self.go_on = threading.Event()
        self.handle = self.respond  # in a thread
        config = Config()
        config.set("threads", 2)
        config.set("worker_connections", 12)
        self.worker = Worker(1, os.getppid(), [self.listener], None, 30, config, Logger(config))
        self.worker.take_number(set())
        self.worker.poller = module.selectors.DefaultSelector()
        self.worker.enqueue_req = self.requests.append

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A new client, whose connection the worker has accepted, and has read as far as it was sent."""
        client = socket.create_connection(self.listener.getsockname())
        client.settimeout(10)
        self.clients.append(client)
        client.sendall(sent)
        self.worker.accept(self.listener)
        return client

    def respond(self, conn: Connection) -> bool:
        path = next(conn.parser).path
        self.begun.put(path)
        if path != "/healthz":
            self.go_on.wait()
        self.responded.put(path)
        return True

    def poll(self) -> None:
        self.worker.wait_for_and_dispatch_events(0.0)

    def finish(self, keep: bool) -> None:
        """The thread has responded."""
        conn = self.requests.pop()
        next(conn.parser)
        self.worker.finish_request(conn, keep)

    def close(self) -> None:
        for end in (*self.clients, self.listener, *(conn.sock for conn in self.requests)):
            end.close()
        for key in list(self.worker.poller.get_map().values()):
            key.fileobj.close()
        self.worker.poller.close()
        self.worker.tmp.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the worker; a test sets its one element."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def process(clock: list[float]) -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed the connection, and nothing is left to read."""
    return bool(select.select([client], [], [], 0)[0]) and client.recv(1, socket.MSG_PEEK) == b""


class TestReading:
    def test_a_thread_gets_a_request_when_it_is_complete(self, process):
        client = process.connect(GET[:10])
        process.poll()
        assert (len(process.requests), len(process.worker.incoming)) == (0, 1)
        client.sendall(GET[10:])
        process.poll()
        assert [next(conn.parser).path for conn in process.requests] == ["/healthz"]
        assert not process.worker.incoming

    def test_a_kept_connection_is_read_the_same_way(self, process):
        client = process.connect(GET)
        process.finish(keep=True)
        client.sendall(GET[:10])
        process.poll()
        assert (len(process.requests), len(process.worker.incoming)) == (0, 1)
        client.sendall(GET[10:])
        process.poll()
        assert next(process.requests[0].parser).path == "/healthz"

    def test_what_was_sent_ahead_is_the_next_request(self, process):
        process.connect(GET + GET + GET[:5])
        process.finish(keep=True)
        assert len(process.requests) == 1
        process.finish(keep=True)
        assert [bytes(conn.incoming.received) for conn in process.worker.incoming] == [GET[:5]]

    def test_a_client_that_disconnects_is_forgotten(self, process):
        for sent in (b"", GET[:10]):
            process.connect(sent).close()
        process.poll()
        process.poll()
        assert (process.worker.nr_conns, len(process.worker.incoming), len(process.requests)) == (0, 0, 0)
        assert not process.worker.incoming_by_address

    @pytest.mark.parametrize("ahead", [b"", GET], ids=["first", "after another"])
    def test_a_head_that_is_too_large_is_refused_though_it_is_complete(self, process, monkeypatch, ahead):
        monkeypatch.setattr(incoming, "MAX_HEAD_BYTES", 1000)
        client = process.connect(ahead + GET[:-2] + b"X: " + b"y" * 1000 + b"\r\n\r\n")
        if ahead:
            process.finish(keep=True)
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")
        assert (process.requests, len(process.worker.closing)) == ([], 1)

    def test_an_incomplete_request_is_refused_in_time(self, process, clock):
        begun, silent = process.connect(GET[:10]), process.connect()
        clock[0] = REQUEST_SECONDS / 2
        later = process.connect(GET[:10])
        clock[0] = REQUEST_SECONDS + 1
        process.worker.murder_pending()
        assert begun.recv(100).startswith(b"HTTP/1.1 408 ")
        assert is_closed(silent)
        assert not is_closed(later)
        assert len(process.worker.incoming) == 1

    def test_bytes_give_no_further_time(self, process, clock):
        client = process.connect(GET[:1])
        for place in range(1, 20):
            clock[0] = place * REQUEST_SECONDS / 18
            client.sendall(GET[place : place + 1])
            process.poll()
            process.worker.murder_pending()
        assert not process.worker.incoming

    def test_a_process_that_stops_waits_for_no_request(self, process, clock):
        process.connect(GET[:10])
        process.worker.alive = False
        clock[0] = module.STOPPING_SECONDS + 0.1
        process.worker.murder_pending()
        assert not process.worker.incoming


class TestHeadStart:
    """A process that has more connections than another lets it accept the next one."""

    @pytest.fixture
    def busier(self, process: Process, monkeypatch: pytest.MonkeyPatch) -> Process:
        monkeypatch.setattr(module, "_connections", [0, 0, module.NO_PROCESS, module.NO_PROCESS])
        process.worker.cfg.set("workers", 2)
        process.worker.set_accept_enabled(True)
        process.connect(GET)
        process.finish(keep=True)
        return process

    def come(self, process: Process) -> socket.socket:
        client = socket.create_connection(process.listener.getsockname())
        process.clients.append(client)
        process.poll()
        return client

    def loop(self, process: Process) -> None:
        """As an iteration of the worker's loop."""
        process.worker.set_accept_enabled(True)
        process.poll()

    def test_it_accepts_later_and_reads_meanwhile(self, busier, clock):
        self.come(busier)
        self.loop(busier)
        assert busier.worker.nr_conns == 1
        busier.clients[0].sendall(GET)
        self.loop(busier)
        assert len(busier.requests) == 1, "the poller does not wait"
        clock[0] += module.HEAD_START_SECONDS
        self.loop(busier)
        assert busier.worker.nr_conns == 2

    def test_a_connection_that_another_has_accepted_costs_nothing(self, busier, clock):
        self.come(busier)
        busier.listener.accept()[0].close()
        clock[0] += module.HEAD_START_SECONDS
        self.loop(busier)
        clock[0] += 1.0
        self.come(busier)
        self.loop(busier)
        assert busier.worker.nr_conns == 1, "the next one has its own head start"
        clock[0] += module.MAX_DELAY_SECONDS
        self.loop(busier)
        assert busier.worker.nr_conns == 2

    def test_the_delay_has_an_end(self, busier, clock):
        busier.worker.nr_conns += 1000
        self.come(busier)
        clock[0] += module.MAX_DELAY_SECONDS
        self.loop(busier)
        assert len(busier.worker.incoming) == 1

    def test_a_process_that_has_ended_gets_no_head_start(self, busier, monkeypatch):
        monkeypatch.setattr(request_counts, "child_exit", lambda *_: None)
        other = Worker(1, os.getppid(), [], None, 30, busier.worker.cfg, busier.worker.log)
        other.take_number({busier.worker.number})
        module._connections[other.number] = 0
        child_exit(None, other)
        self.come(busier)
        assert busier.worker.nr_conns == 2
        other.tmp.close()

    def test_nor_does_one_that_starts_or_stops(self, busier, clock):
        other = Worker(1, os.getppid(), [], None, 30, busier.worker.cfg, busier.worker.log)
        other.take_number({busier.worker.number})
        self.come(busier)
        assert busier.worker.nr_conns == 2, "it has no loop yet"
        other.notify()
        self.come(busier)
        assert busier.worker.nr_conns == 2, "it accepts"
        other.alive = False
        other.notify()
        clock[0] += module.MAX_DELAY_SECONDS
        self.loop(busier)
        self.come(busier)
        assert busier.worker.nr_conns == 4
        other.tmp.close()

    def test_a_process_that_is_late_accepts_in_its_turn(self, busier, clock):
        self.come(busier)
        clock[0] += 10 * module.MAX_DELAY_SECONDS
        self.loop(busier)
        assert busier.worker.nr_conns == 2

    def test_a_process_that_stops_does_not_spin(self, busier, monkeypatch):
        self.come(busier)
        asked = []
        monkeypatch.setattr(busier.worker.poller, "select", lambda timeout: asked.append(timeout) or [])
        busier.worker.alive = False
        busier.worker.set_accept_enabled(False)
        busier.worker.wait_for_and_dispatch_events(1.0)
        assert asked == [1.0]


class TestThreads:
    @pytest.fixture
    def threads(self, process: Process) -> Iterator[Process]:
        worker = process.worker
        del worker.enqueue_req
        worker.method_queue.init()
        worker.tpool = worker.get_thread_pool()
        worker.handle = lambda conn: process.handle(conn)
        yield process
        process.go_on.set()
        for threads in (worker.tpool, worker.health_threads):
            threads.shutdown()
        for thread in threading.enumerate():
            if thread.name.startswith(("request-", "health-")):
                thread.join(10)  # its last request is deferred to the queue that is closed next
        worker.method_queue.close()

    @pytest.fixture
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two requests at once, and one of each client."""
        monkeypatch.setattr(turns, "AT_ONCE", 2)

    def test_a_health_check_waits_for_no_other_request(self, threads):
        for _ in range(3):  # more than there are threads
            threads.connect(b"GET /v1/jobs HTTP/1.1\r\nHost: h\r\n\r\n")
        threads.connect(GET)
        assert threads.responded.get(timeout=10) == "/healthz"
        threads.go_on.set()
        assert {threads.responded.get(timeout=10) for _ in range(2)} == {"/v1/jobs"}

    def test_one_client_with_many_requests_stops_no_other_one(self, threads, few):
        threads.worker.clients.learn(b"Bearer greedy", "greedy")
        for _ in range(3):
            threads.connect(GET_JOBS % b"greedy")
        assert threads.begun.get(timeout=10) == "/v1/jobs"
        threads.connect(GET.replace(b"healthz", b"v1/queues"))
        assert threads.begun.get(timeout=10) == "/v1/queues"
        assert len(threads.worker.turns._served) == 2

    def test_the_next_request_is_served_when_one_ends(self, threads, few):
        for _ in range(2):
            threads.connect(GET_JOBS % b"greedy")
        assert threads.begun.get(timeout=10) == "/v1/jobs"
        assert self.counts(threads) == (1, 1)
        threads.go_on.set()
        assert threads.responded.get(timeout=10) == "/v1/jobs"
        self.run_callbacks(threads)
        assert threads.begun.get(timeout=10) == "/v1/jobs"

    def test_the_next_request_is_served_when_one_begins_to_wait(self, threads, few):
        for _ in range(2):
            threads.connect(GET_JOBS % b"greedy")
        assert threads.begun.get(timeout=10) == "/v1/jobs"
        assert self.counts(threads) == (1, 1)
        [first] = threads.worker.turns._served
        first.sock.begin_to_wait()
        first.sock.begin_to_wait()  # again: without effect
        self.run_callbacks(threads)
        assert threads.begun.get(timeout=10) == "/v1/jobs"

    def test_the_next_request_is_served_when_one_takes_long(self, threads, few, clock, monkeypatch):
        for _ in range(2):
            threads.connect(GET_JOBS % b"greedy")
        assert threads.begun.get(timeout=10) == "/v1/jobs"
        assert self.counts(threads) == (1, 1)
        asked: list[float] = []
        monkeypatch.setattr(threads.worker.poller, "select", lambda timeout: asked.append(timeout) or [])
        threads.worker.wait_for_and_dispatch_events(1.0)
        assert asked == [LONGEST_SECONDS]
        clock[0] = LONGEST_SECONDS
        threads.poll()
        assert threads.begun.get(timeout=10) == "/v1/jobs"

    def test_requests_are_counted_for_their_owner_once_it_is_known(self, threads, few):
        def identify(conn: Connection) -> bool:
            conn.sock.owner = "anna"
            return False

        threads.handle = identify
        threads.connect(GET_JOBS % b"of-anna")
        self.run_callbacks(threads)
        assert threads.worker.clients.find(b"Bearer of-anna", "an address") == ("anna",)

    def test_an_owner_is_not_that_of_the_request_before_on_the_same_connection(self, threads, few):
        owners = iter(["anna", None])

        def identify(conn: Connection) -> bool:
            next(conn.parser)
            conn.sock.owner = next(owners) or conn.sock.owner
            return True

        threads.handle = identify
        client = threads.connect(GET_JOBS % b"of-anna")
        self.run_callbacks(threads)
        client.sendall(GET_JOBS % b"of-nobody")
        threads.poll()
        self.run_callbacks(threads)
        found = [threads.worker.clients.find(name, "address") for name in (b"Bearer of-anna", b"Bearer of-nobody")]
        assert found == [("anna",), "address"]

    def test_the_poller_sleeps_while_all_threads_are_busy(self, threads, clock, monkeypatch):
        for i in range(6):  # two are served
            threads.connect(GET_JOBS % b"%d" % i)
        assert len(threads.worker.submitted) == 2
        clock[0] = 2 * LONGEST_SECONDS
        asked: list[float] = []
        monkeypatch.setattr(threads.worker.poller, "select", lambda timeout: asked.append(timeout) or [])
        threads.worker.wait_for_and_dispatch_events(1.0)
        assert asked == [1.0]

    def test_a_request_that_fails_outside_the_app_is_logged_and_closed(self, threads, monkeypatch):
        logged: list[str] = []
        monkeypatch.setattr(threads.worker.log, "exception", logged.append)

        def fail(conn: Connection) -> bool:
            raise SystemExit("not foreseen")

        threads.handle = fail
        client = threads.connect(GET_JOBS % b"anna")
        self.run_callbacks(threads)
        assert threads.worker.closing
        assert client.recv(1) == b""
        assert not threads.worker.turns._served
        assert len(logged) == 1

    @staticmethod
    def counts(process: Process) -> tuple[int, int]:
        """Requests that are served, and that wait for their turns."""
        turns = process.worker.turns
        return len(turns._served), sum(map(len, turns._waiting.values()))

    @staticmethod
    def run_callbacks(process: Process) -> None:
        """What a thread has deferred, once it has."""
        select.select([process.worker.method_queue.fileno()], [], [], 10)
        process.worker.method_queue.run_callbacks(None)
        process.poll()


class TestClosing:
    def test_it_waits_for_the_client_in_the_poller_and_not_for_long(self, process, clock):
        client = process.connect(GET)
        process.finish(keep=False)
        assert is_closed(client), "the response has ended"
        client.sendall(b"the rest of a body")
        process.poll()
        assert (process.worker.nr_conns, len(process.worker.closing)) == (1, 1)
        clock[0] = CLOSING_SECONDS + 0.1
        process.worker.murder_pending()
        assert (process.worker.nr_conns, len(process.worker.closing)) == (0, 0)

    def test_a_client_that_closes_too_ends_it(self, process):
        process.connect(GET).shutdown(socket.SHUT_WR)
        process.finish(keep=False)
        process.poll()
        assert process.worker.nr_conns == 0

    def test_a_client_that_goes_on_sending_ends_it(self, process, monkeypatch):
        monkeypatch.setattr(module, "CLOSING_BYTES", 1000)
        client = process.connect(GET)
        process.finish(keep=False)
        client.sendall(bytes(2000))
        process.poll()
        assert process.worker.nr_conns == 0


class TestRoom:
    def test_the_oldest_incomplete_request_of_the_address_with_the_most_makes_room(self, process, monkeypatch):
        monkeypatch.setattr(module, "MAX_INCOMING", 4)
        honest = process.connect(GET[:10])
        [of_honest] = process.worker.incoming
        of_honest.address = "192.0.2.1"  # as if it came from there
        process.worker.incoming_by_address = module.Counter({"192.0.2.1": 1})
        flood = [process.connect(GET[:10]) for _ in range(6)]
        assert [is_closed(client) for client in flood] == [True] * 3 + [False] * 3
        assert not is_closed(honest)
        assert process.worker.incoming_by_address == {"192.0.2.1": 1, "127.0.0.1": 3}

    @pytest.mark.parametrize("kind", ["idle", "incomplete", "closing"])
    def test_connections_that_no_thread_works_for_do_not_keep_others_out(self, process, kind):
        for _ in range(3 * process.worker.worker_connections):
            client = process.connect({"idle": GET, "incomplete": GET[:10], "closing": GET}[kind])
            if kind != "incomplete":
                process.finish(keep=kind == "idle")
            assert process.worker.nr_conns < process.worker.worker_connections
        assert not is_closed(client) or kind == "closing"
        process.connect(GET)
        assert len(process.requests) == 1

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
    def test_without_file_descriptors_it_closes_a_connection_and_goes_on(self, process, number):
        process.connect(GET[:10])

        class Full:
            def accept(self) -> Any:
                raise OSError(number, "too many open files")

        process.worker.accept(Full())
        assert process.worker.nr_conns == 0
        process.connect(GET)
        assert len(process.requests) == 1

    def test_other_errors_end_the_process_as_before(self, process):
        class Broken:
            def accept(self) -> Any:
                raise OSError(errno.EINVAL, "not a listener")

        with pytest.raises(OSError, match="not a listener"):
            process.worker.accept(Broken())


def test_a_process_without_threads_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn ends with exit code 3 of a process, and starts another after any other."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "Threads", refuse)
    monkeypatch.setattr(module, "NEXT_PROCESS_SECONDS", 0)
    with pytest.raises(SystemExit) as ended:
        Process().worker.get_thread_pool()
    assert ended.value.code == 1
