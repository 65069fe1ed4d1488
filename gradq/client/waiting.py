"""Waits until a job has ended or changed: by long polling; where the service does not hold requests, by polling."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from gradq.client.calls import Calls, JobSnapshot
from gradq.client.problems import ApiError, ClientError
from gradq.client.sender import RetryState
from gradq.client.types import Json

HOLD_SECONDS = 30.0  # of one long poll: below the minute after which proxies close connections
PATIENCE_SECONDS = 60.0  # how long the service may be away during a wait
POLL_SECONDS = 1.0  # where the service sends no Retry-After


async def until_terminal(
    calls: Calls, seen: Json, timeout: float | None = None, poll: float | None = None
) -> AsyncGenerator[JobSnapshot, None]:
    """Yields the job as received each time. The last one is terminal, unless `timeout` seconds were over before.

    `seen`: the job as received before, or its id alone. `poll`: seconds between requests that the service does not
    hold; None: long polling.
    """
    poller = Poller(calls, seen["id"], timeout, holds=poll is None, seen=seen if "status" in seen else None)
    async with aclosing(poller.snapshots("terminal")) as snapshots:
        async for look in snapshots:
            yield look
            if look.job["terminal"] or poller.left <= 0:
                return
            await poller.pause(poll or look.interval)


async def until_changed(calls: Calls, job_id: str, seen: Json, seconds: float) -> Json:
    """The job once it differs from `seen` or has ended, or as it is after `seconds`."""
    poller = Poller(calls, job_id, seconds)
    async with aclosing(poller.snapshots()) as snapshots:
        async for look in snapshots:
            seen_last = look.job
            if look.job != seen or look.job["terminal"] or poller.left <= 0:
                break
            await poller.pause(look.interval)
    return seen_last


class Poller:
    """Fetches one job repeatedly, with a deadline; holds the requests while the service supports it."""

    def __init__(
        self, calls: Calls, job_id: str, timeout: float | None, holds: bool = True, seen: Json | None = None
    ) -> None:
        self.calls, self.job_id, self.holds, self.seen = calls, job_id, holds, seen
        self.deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        self.was_held = False

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    async def snapshots(self, until: str | None = None) -> AsyncGenerator[JobSnapshot, None]:
        """Yields the job repeatedly. Without `until` the first request is not held: the job may have changed already.

        Outages are retried for a minute and until the deadline, after which the last snapshot is yielded again, with
        `away`; `seen` stands for it before the first. Raises the error if there is none, or after the minute.
        """
        look: JobSnapshot | None = None
        last = JobSnapshot(self.seen) if self.seen is not None else None
        patience = (
            PATIENCE_SECONDS if last is not None else min(PATIENCE_SECONDS, self.left)
        )  # `last` ends at the deadline
        tries = RetryState(self.calls.sender, patience)
        while True:
            held = self.holds and (until is not None or look is not None)
            wait = min(HOLD_SECONDS, max(0.0, self.left)) if held else 0.0
            asked_at = time.monotonic()
            try:
                look = await self.calls.look(self.job_id, wait, until, known=look)
            except ClientError as error:
                if refuses_to_hold(error):
                    self.holds = False
                elif last is not None and self.left <= 0:
                    yield replace(last, away=error)
                else:
                    await tries.again(error, at_most=self.left if self.left > 0 else float("inf"))
                continue
            last = look
            tries.went_well(PATIENCE_SECONDS)
            self.was_held = was_held(asked_at, wait) or (self.holds and not held)
            yield look

    async def pause(self, interval: float | None) -> None:
        """Sleeps until the next request, unless the service held the last one."""
        if not self.was_held:
            await self.calls.sender.transport.sleep(max(0.0, min(interval or POLL_SECONDS, self.left)))


def was_held(asked_at: float, wait: float) -> bool:
    """Whether the service held the request; False if it holds none, or as many as it can already."""
    return wait > 0 and time.monotonic() - asked_at >= 0.9 * wait


def refuses_to_hold(error: ClientError) -> bool:
    """Whether the service rejects the parameters of long polling, as version 0.1 does."""
    return isinstance(error, ApiError) and error.status == 422 and (error.names("/wait") or error.names("/until"))
