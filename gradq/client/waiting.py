"""Until a job has ended, or changed: requests that the service holds; where it does not, questions at its interval."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gradq.client.calls import Calls, JobSnapshot
from gradq.client.problems import ApiError, ClientError
from gradq.client.sender import RetryState
from gradq.client.types import Json

HOLD_SECONDS = 30.0  # of one held request: below the minute after which proxies hang up
PATIENCE_SECONDS = 60.0  # how long a service may be away in the middle of a wait
POLL_SECONDS = 1.0  # where the service names no interval


async def until_terminal(
    calls: Calls, job_id: str, timeout: float | None = None, poll: float | None = None
) -> AsyncGenerator[Json, None]:
    """The job as it was each time that the service said so; the last one is terminal, or time was over.

    `poll`: ask every so many seconds, and hold nothing.
    """
    poller = Poller(calls, job_id, timeout, holds=poll is None)
    async with aclosing(poller.snapshots("terminal")) as snapshots:
        async for look in snapshots:
            yield look.job
            if look.job["terminal"] or poller.left <= 0:
                return
            await poller.pause(poll or look.interval)


async def until_changed(calls: Calls, job_id: str, seen: Json, seconds: float) -> Json:
    """The job as soon as it is no longer as it was `seen`; after so many seconds, as it is."""
    poller = Poller(calls, job_id, seconds)
    async with aclosing(poller.snapshots()) as snapshots:
        async for look in snapshots:
            seen_last = look.job
            if look.job != seen or look.job["terminal"] or poller.left <= 0:
                break
            await poller.pause(look.interval)
    return seen_last


class Poller:
    """One question again and again, until its asker has heard enough."""

    def __init__(self, calls: Calls, job_id: str, timeout: float | None, holds: bool = True) -> None:
        self.calls, self.job_id, self.holds = calls, job_id, holds
        self.deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        self.was_held = False

    @property
    def left(self) -> float:
        """Seconds until time is over."""
        return self.deadline - time.monotonic()

    async def snapshots(self, until: str | None = None) -> AsyncGenerator[JobSnapshot, None]:
        """The job, over and over. Without `until` the first look is not held: it tells what has changed already.

        Where nobody is, that is an error at once; an absence later on is borne, until time is over.
        """
        look: JobSnapshot | None = None
        tries = RetryState(self.calls.sender)
        while True:
            held = self.holds and (until is not None or look is not None)
            wait = min(HOLD_SECONDS, max(0.0, self.left)) if held else 0.0
            asked_at = time.monotonic()
            try:
                look = await self.calls.look(self.job_id, wait, until, known=look)
            except ClientError as error:
                if refuses_to_hold(error):
                    self.holds = False
                elif look is not None and self.left <= 0:
                    yield look
                else:
                    await tries.again(error, at_most=self.left if look is not None else float("inf"))
                continue
            tries.went_well(PATIENCE_SECONDS)
            self.was_held = was_held(asked_at, wait) or (self.holds and not held)
            yield look

    async def pause(self, interval: float | None) -> None:
        """Until it is worth asking again: not at all where the service holds the question."""
        if not self.was_held:
            await self.calls.sender.transport.sleep(max(0.0, min(interval or POLL_SECONDS, self.left)))


def was_held(asked_at: float, wait: float) -> bool:
    """False: the service answered at once, because it holds no requests, or as many as it can."""
    return wait > 0 and time.monotonic() - asked_at >= 0.9 * wait


def refuses_to_hold(error: ClientError) -> bool:
    """A service of version 0.1 does not know the parameter."""
    return isinstance(error, ApiError) and error.status == 422 and (error.names("/wait") or error.names("/until"))
