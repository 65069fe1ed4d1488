"""Connections to PostgreSQL that are closed when the server is silent for too long.

A server that is stopped (SIGSTOP, `docker pause`) or whose disk hangs keeps its connections open: the kernel answers
keepalives in its place, and libpq has no limit on the time until an answer.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from psycopg import Connection, OperationalError


class LimitedConnection(Connection[Any]):
    """A connection that raises OperationalError, and is closed, if the server sends nothing for `silence_seconds` while
    it is waited for. None: no limit. A statement whose rows keep arriving may take as long as it takes.

    psycopg wakes up ten times per second while it waits, and the limit is checked then: no thread and no timer. It
    costs each statement some two microseconds.
    """

    silence_seconds: float | None = None

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        limit = self.silence_seconds
        return super().wait(gen if limit is None else self._limited(gen, limit), *args, **options)

    def _limited(self, gen: Generator[Any, Any, Any], limit: float) -> Generator[Any, Any, Any]:
        """`gen` itself, which yields what it waits for and is sent whether that has happened. Returns its result."""
        try:
            wanted = next(gen)
            heard = time.monotonic()
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard = now
                elif now - heard > limit:
                    # after that SQLAlchemy takes the connection out of the pool, with all that are as old
                    self.pgconn.finish()
                    raise OperationalError(f"the server was silent for {limit:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value
