"""Until a job has ended, or changed: requests that the service holds; where it does not, questions at its interval."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

from gradq.calls import Calls, Json, Look
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
            look = await calls.look(job_id, wait, "terminal", patience=patience)
        except ApiError as error:
            if not refuses_to_hold(error):
                raise
            holds = False
            continue
        yield look.job
        now = time.monotonic()
        if look.job["terminal"] or now >= deadline:
            return
        patience = PATIENCE_SECONDS
        if not was_held(asked_at, wait):
            await calls.sender.transport.sleep(min(poll or look.interval or POLL_SECONDS, deadline - now))


async def until_changed(calls: Calls, job_id: str, seen: Json, seconds: float) -> Json:
    """The job as soon as it is no longer as it was `seen`; after so many seconds, as it is."""
    deadline = time.monotonic() + seconds
    look: Look | None = None  # the first question tells what the service has now, and by which ETag
    holds, patience = True, 0.0
    while True:
        asked_at = time.monotonic()
        wait = min(HOLD_SECONDS, max(0.0, deadline - asked_at)) if holds and look is not None else 0.0
        try:
            look = await calls.look(job_id, wait, known=look, patience=patience)
        except ApiError as error:
            if not refuses_to_hold(error):
                raise
            holds = False
            continue
        now = time.monotonic()
        if look.job != seen or look.job["terminal"] or now >= deadline:
            return look.job
        patience = PATIENCE_SECONDS
        if (wait > 0 and not was_held(asked_at, wait)) or not holds:
            await calls.sender.transport.sleep(min(look.interval or POLL_SECONDS, deadline - now))


def was_held(asked_at: float, wait: float) -> bool:
    """False: the service answered at once, because it holds no requests, or as many as it can."""
    return wait > 0 and time.monotonic() - asked_at >= 0.9 * wait


def refuses_to_hold(error: ApiError) -> bool:
    """A service of version 0.1 does not know the parameter."""
    return error.status == 422 and (error.names("/wait") or error.names("/until"))
