"""Until a job has ended: requests that the service holds; where it does not hold them, questions at its interval."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from gradq.calls import Calls, Json
from gradq.problems import ApiError

HOLD_SECONDS = 30.0  # of one held request: below the minute after which proxies hang up
PATIENCE_SECONDS = 60.0  # how long a service may be away in the middle of a wait
POLL_SECONDS = 1.0  # where the service names no interval


async def until_terminal(
    calls: Calls, job_id: str, timeout: float | None = None, poll: float | None = None
) -> AsyncGenerator[Json, None]:
    """The job as it was each time that the service said so; the last one is terminal, or time was over.

    `poll`: ask every so many seconds, and hold nothing.
    """
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    holds, patience = poll is None, 0.0  # an address where nobody is, is an error at once; an absence later is not
    while True:
        asked_at = time.monotonic()
        wait = min(HOLD_SECONDS, max(0.0, deadline - asked_at)) if holds else 0.0
        try:
            job, interval = await calls.job_and_interval(job_id, wait, "terminal", patience)
        except ApiError as error:
            if not refuses_to_hold(error):
                raise
            holds = False
            continue
        yield job
        now = time.monotonic()
        if job["terminal"] or now >= deadline:
            return
        patience = PATIENCE_SECONDS
        if was_held(asked_at, wait):
            continue
        await calls.sender.transport.sleep(min(poll or interval or POLL_SECONDS, deadline - now))


def was_held(asked_at: float, wait: float) -> bool:
    """False: the service answered at once, because it holds no requests, or as many as it can."""
    return wait > 0 and time.monotonic() - asked_at >= 0.9 * wait


def refuses_to_hold(error: ApiError) -> bool:
    """A service of version 0.1 does not know the parameter."""
    return error.status == 422 and (error.names("/wait") or error.names("/until"))
