"""Threads: they are started once, and the one that became idle last gets the next request.

`ThreadPoolExecutor` wakes the thread that has been idle for longest. With 160 threads, each request then finds its
stack, its database connection and the allocator's memory outside the processor's caches, and takes a quarter longer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

Task = Callable[[], object]


class _Thread:
    def __init__(self) -> None:
        self.task: Task | None = None  # None: the thread ends
        self.wake = threading.Lock()
        self.wake.acquire()


class Threads:
    """`number` threads for tasks, which log their errors themselves. Raises RuntimeError if the system starts fewer;
    those that have started end."""

    def __init__(self, number: int, name: str) -> None:
        self._lock = threading.RLock()  # a signal's handler may call `shutdown` within `submit`
        self._idle: list[_Thread] = []  # the one that became idle last is last
        self._tasks: deque[Task] = deque()  # for which no thread was idle
        self._is_shut_down = False
        try:
            for i in range(number):
                thread = _Thread()
                threading.Thread(target=self._run, args=(thread,), name=f"{name}-{i}", daemon=True).start()
                self._idle.append(thread)
        except RuntimeError:
            self.shutdown()
            raise

    def submit(self, task: Task) -> None:
        """Run the task in a thread: at once if one is idle."""
        with self._lock:
            if not self._idle:
                self._tasks.append(task)
                return
            thread = self._idle.pop()
        thread.task = task
        thread.wake.release()

    def shutdown(self, wait: bool = False) -> None:
        """End all threads, each after the task that it runs; tasks that wait are not run. `wait` is without effect: a
        process does not wait for requests that are held."""
        with self._lock:
            self._is_shut_down = True
            self._tasks.clear()
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.wake.release()

    def _run(self, thread: _Thread) -> None:
        thread.wake.acquire()
        task, thread.task = thread.task, None
        while task is not None:
            with suppress(BaseException):  # the thread goes on; a library may raise SystemExit, or panic
                task()
            task = None  # an idle thread keeps no request in memory
            task = self._next(thread)

    def _next(self, thread: _Thread) -> Task | None:
        """The task that waits for longest, or else the next one that is submitted; None: end."""
        with self._lock:
            if self._is_shut_down:
                return None
            if self._tasks:
                return self._tasks.popleft()
            self._idle.append(thread)
        thread.wake.acquire()
        task, thread.task = thread.task, None
        return task
