"""The notifier's thread: requests are woken once it can be started, and query by themselves until then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import wait_for

from api.waiting import change_notifier
from api.waiting.change_notifier import ChangeNotifier, PollThread

LONG = 60.0  # seconds; a wait that takes as long has not been woken


class FakeDatabase:
    @contextmanager
    def read(self) -> Iterator[None]:
        yield


class Refused:
    """The system starts no further thread, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.tries, self.times, self._start = 0, times, PollThread.start
        monkeypatch.setattr(PollThread, "start", lambda thread: self.start(thread))

    def start(self, thread: PollThread) -> None:
        self.tries += 1
        if self.tries <= self.times:
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.fixture
def notifier(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChangeNotifier]:
    """Of a database in which each job has changed. Pauses are short, so that its thread ends soon."""
    monkeypatch.setattr(change_notifier, "ERROR_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(change_notifier, "fingerprints_of", lambda _, ids, __: dict.fromkeys(ids, SimpleNamespace()))
    made: Any = ChangeNotifier(FakeDatabase(), 1.0)  # type: ignore[arg-type]
    yield made
    if made._thread is not None:
        made._thread.stopped.set()
        with made._changed:
            made._waiters["the end"] = set()
            made._changed.notify()
        made._thread.join(LONG)


@pytest.mark.parametrize("times", [1, 3])
def test_a_thread_that_cannot_be_started_is_started_by_a_later_request(
    notifier: ChangeNotifier, monkeypatch: pytest.MonkeyPatch, times: int
):
    refused = Refused(monkeypatch, times)
    for _ in range(times):
        assert notifier.wait("job", lambda _: False, LONG), "the request would not query by itself"
        assert notifier._thread is None
    assert notifier.wait("job", lambda fingerprint: fingerprint is not None, LONG)
    assert refused.tries == times + 1
    assert notifier._thread is not None
    assert notifier._thread.is_alive()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_no_waiter_is_left_when_the_thread_cannot_be_started(
    notifier: ChangeNotifier, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(_thread: threading.Thread) -> None:
        raise error

    monkeypatch.setattr(PollThread, "start", fail)
    if isinstance(error, MemoryError):
        with pytest.raises(MemoryError):
            notifier.wait("job", lambda _: True, LONG)
    else:
        assert notifier.wait("job", lambda _: True, LONG)
    assert notifier._waiters == {}


def test_a_refused_start_leaves_the_waiters_of_others(notifier: ChangeNotifier, monkeypatch: pytest.MonkeyPatch):
    Refused(monkeypatch, 2)
    notifier._waiters["job"] = {change_notifier.Waiter(lambda _: False, None)}
    assert notifier.wait("job", lambda _: False, LONG)
    assert len(notifier._waiters["job"]) == 1
    assert notifier.wait("another", lambda _: False, LONG)
    assert set(notifier._waiters) == {"job"}


def test_a_wait_without_the_thread_ends_early_for_a_process_that_shuts_down(
    notifier: ChangeNotifier, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(change_notifier, "ERROR_PAUSE_SECONDS", LONG)
    Refused(monkeypatch, 1)
    waiting = threading.Thread(target=notifier.wait, args=("job", lambda _: False, LONG))
    waiting.start()
    wait_for(lambda: notifier._waiters, 20, "the waiter")
    notifier.wake_all()
    waiting.join(LONG / 2)
    assert not waiting.is_alive()
