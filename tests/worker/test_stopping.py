"""Every end of a worker is a drain, before anything waits for the threads that run jobs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery.apps.worker
import pytest

import worker.app
from shared.config import Settings
from worker.launcher import Launcher
from worker.runtime import Runtime


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restores the handlers of all signals."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(Settings(state_dir=tmp_path / "state"), Launcher())


def celery_worker(terminal: bool = False) -> Any:
    """A worker that is not started; `terminal`: whether its standard output is one."""
    made: Any = object.__new__(worker.app.app.Worker)
    made._isatty, made.hostname = terminal, "w@h"
    return made


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_hangup_is_a_stop_unless_it_was_ignored_from_the_start(handlers: None, terminal: bool, before: Any):
    signal.signal(signal.SIGHUP, before)
    made = celery_worker(terminal)
    made.install_platform_tweaks(made)
    stops = signal.getsignal(signal.SIGTERM)
    assert callable(stops)
    assert signal.getsignal(signal.SIGHUP) == (stops if before == signal.SIG_DFL else signal.SIG_IGN)


@pytest.mark.parametrize("end", ["stop", "terminate"])
def test_celery_ends_after_the_jobs_were_asked_to_stop(end: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    """Celery waits for the threads that run jobs: after an error of its own as well, which sends no signal before."""
    draining: list[bool] = []
    monkeypatch.setattr(celery.apps.worker.Worker, "stop", lambda *_, **__: draining.append(runtime.draining.is_set()))
    monkeypatch.setattr(worker.app, "_runtimes", [runtime])
    getattr(celery_worker(), end)()
    assert draining == [True]


def test_a_worker_that_has_not_started_ends_as_well(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker.app, "_runtimes", [])
    monkeypatch.setattr(celery.apps.worker.Worker, "stop", lambda *_, **__: None)
    celery_worker().stop()


def test_a_runtime_that_stops_asks_its_jobs_to_stop_before_it_waits_for_them(runtime: Runtime):
    stopped: list[bool] = []
    thread = threading.Thread(target=lambda: stopped.append(runtime.draining.wait(60)), daemon=True)
    thread.start()
    runtime._threads.append(thread)
    runtime.stop()
    assert stopped == [True]


def test_a_runtime_that_stops_starts_no_further_thread(runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    """A poll that was under way when the stop began."""
    runtime.database.migrate()
    runtime.reconciler.schema_fits = True
    started: list[str] = []

    def waiting(*_: Any) -> int:
        runtime.drain()
        return 1

    monkeypatch.setattr("worker.runtime.queue.waiting", waiting)
    monkeypatch.setattr(runtime, "run_queued_jobs", lambda: started.append("one"))
    runtime.poll()
    assert (started, runtime._threads) == ([], [])
    runtime.stop()
