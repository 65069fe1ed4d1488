"""The thread in which one attempt's files go to and from the store, so that its supervisor is not blocked.

Not a ThreadPoolExecutor: a process that ends waits for the threads of one, also for a store that does not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class TransferThread:
    """Runs calls one after the other. No call can be interrupted: a thread whose store does not answer is left behind,
    and ends after its call. `ended`: is done when no call runs and none will."""

    def __init__(self, name: str) -> None:
        self.ended: Future[None] = Future()
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Raises RuntimeError if the system has no thread left."""
        self._thread.start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run `call` after those before it. Returns its future result, or error; cancelled if it is closed before."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def close(self, seconds: float) -> bool:
        """Run no further call, and wait up to `seconds` for the one that runs. Returns whether it has ended."""
        self._closed.set()
        self._calls.put(None)
        if self._thread.ident is None:  # not started
            self.ended.set_result(None)
            return True
        self._thread.join(seconds)
        return self.ended.done()

    def _run(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            if self._closed.is_set():
                future.cancel()
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        self.ended.set_result(None)


def is_done(transfer: Future[Any], seconds: float) -> bool:
    """Wait up to `seconds`; returns whether the transfer has ended, in whatever way."""
    return bool(wait([transfer], seconds).done)
