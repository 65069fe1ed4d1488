"""Follows a job's log: each line once and in order, across broken connections.

Reads a stream of server-sent events; when it breaks, a new one resumes after the last line received. Where the service
offers no stream, or has too many readers, reads pages of JSON from the same cursor.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, cast

from gradq.client.calls import Calls, path_of
from gradq.client.problems import ApiError, BadAnswer, ClientError, NotAcceptable, ServiceUnavailable, Unreachable
from gradq.client.sender import RetryState
from gradq.client.transport import Request
from gradq.client.types import Json
from gradq.client.waiting import HOLD_SECONDS, PATIENCE_SECONDS, POLL_SECONDS, refuses_to_hold, was_held

EventType: TypeAlias = Literal["status", "metric", "log", "checkpoint", "artifact", "warning"]
Level: TypeAlias = Literal["info", "warning", "error"]

STREAM = "text/event-stream"
SILENCE_SECONDS = 40.0  # the service sends a comment every 15 s; after this long without one, reconnect


@dataclass(frozen=True)
class Event:
    """One line of a job's log. `seq` is its cursor: `events(after=seq)` continues after it.

    `attempt` counts from 1; `created_at` is RFC 3339; `json` is the whole line as the service sent it.
    """

    seq: int
    type: EventType
    level: Level
    message: str
    attempt: int
    created_at: str
    data: Json = field(repr=False)
    json: Json = field(repr=False, compare=False)

    @classmethod
    def of(cls, row: Json) -> Self:
        """The event of one row of the service's JSON."""
        names = ("seq", "type", "level", "message", "attempt", "created_at", "data")
        return cls(**{name: row[name] for name in names}, json=row)

    @property
    def step(self) -> int | None:
        """Optimizer updates since the job's start, for metric and checkpoint lines; else None."""
        return cast("int | None", self.data.get("step"))

    @property
    def epoch(self) -> int | None:
        """The epoch, counted from 1, for metric and checkpoint lines; else None."""
        return cast("int | None", self.data.get("epoch"))

    @property
    def metrics(self) -> dict[str, float | None]:
        """Name -> value of a metric line; a value that is not finite is None. Empty for other lines."""
        return dict(self.data.get("metrics") or {})

    @property
    def status(self) -> str | None:
        """The job's new state, for status lines; else None."""
        return cast("str | None", self.data.get("status"))


async def page(calls: Calls, job_id: str, after: int, type: str | None) -> list[Event]:
    """All lines that the log has now after the cursor."""
    found: list[Event] = []
    while True:
        rows = await calls.events(job_id, after, type)
        found += [Event.of(row) for row in rows["data"]]
        if not rows["has_more"]:
            return found
        after = rows["next_after"]


async def follow(calls: Calls, job_id: str, after: int = 0, type: str | None = None) -> AsyncGenerator[Event, None]:
    """Yields the lines after the cursor as they come, until the job has ended and all were yielded."""
    cursor, tries = after, RetryState(calls.sender, PATIENCE_SECONDS)
    while True:
        try:
            async with aclosing(_stream(calls, job_id, cursor, type)) as events:
                async for event in events:
                    tries.went_well(PATIENCE_SECONDS)
                    if event is None:
                        return
                    if event.seq > cursor:
                        cursor = event.seq
                        yield event
            raise Unreachable(calls.sender.url, "the stream ended before the job's last line", refused=False)
        except (NotAcceptable, ServiceUnavailable, BadAnswer):
            break
        except ClientError as error:
            await tries.again(error)
    async with aclosing(_pages(calls, job_id, cursor, type)) as pages:
        async for event in pages:
            yield event


def _request(job_id: str, cursor: int, type: str | None) -> Request:
    query: dict[str, Any] = {"after": cursor} | ({"type": type} if type else {})
    headers = {"Accept": STREAM, "Last-Event-ID": str(cursor)}
    return Request("GET", f"{path_of(job_id)}/events", params=query, headers=headers, timeout=SILENCE_SECONDS)


async def _stream(calls: Calls, job_id: str, cursor: int, type: str | None) -> AsyncGenerator[Event | None, None]:
    """The lines of one stream, then None at the service's `end` event. A broken stream may end without it."""
    async with calls.sender.stream(_request(job_id, cursor, type)) as stream:
        media = stream.response.headers.get("Content-Type", "")
        if not media.startswith(STREAM):
            raise BadAnswer("not_a_stream", f"asked for {STREAM}, got {media or 'no content type'}")
        calls.sender.answered = True
        async for sent in stream.events():
            if sent.event == "end":
                yield None
                return
            if sent.data:
                yield Event.of(json.loads(sent.data))


async def _pages(calls: Calls, job_id: str, cursor: int, type: str | None) -> AsyncGenerator[Event, None]:
    wait, ended = HOLD_SECONDS, False
    while True:
        asked_at = time.monotonic()
        try:
            rows = await calls.events(job_id, cursor, type, 0 if ended else wait, PATIENCE_SECONDS)
        except ApiError as error:
            if not refuses_to_hold(error):
                raise
            wait = 0.0
            continue
        for row in rows["data"]:
            yield Event.of(row)
        cursor = rows["next_after"]
        if rows["has_more"]:
            continue
        if ended:  # the state was read before these lines, so they are the last
            return
        ended = (await calls.job(job_id, patience=PATIENCE_SECONDS))["terminal"]
        if not (ended or rows["data"] or was_held(asked_at, wait)):
            await calls.sender.transport.sleep(POLL_SECONDS)
