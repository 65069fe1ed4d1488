"""Sends a request with retries: which errors are retried, after which pause, and what is raised in the end."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from gradq.client.masking import masked
from gradq.client.problems import (
    ApiError,
    BadAnswer,
    ClientError,
    NotFound,
    RequestInProgress,
    Unreachable,
    from_problem,
    is_away,
    through,
)
from gradq.client.transport import Request, Stream, Transport

REFUSED_SECONDS = 0.5  # how long refused connections are retried: the service restarts, or the address is wrong
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0


@dataclass(frozen=True)
class Retries:
    """How often to retry, and after which pause. `draw` returns a number from [0, 1)."""

    times: int
    longest_wait: float  # seconds; an error with a longer Retry-After is raised, not retried
    draw: Callable[[], float] = random.random

    def pause(self, error: ClientError, tries: int, waited: float, patience: float) -> float | None:
        """Seconds until the next try after `tries` of them, `waited` seconds after the first; None: give up.

        Exponential backoff with full jitter, so that many clients do not retry at once; a Retry-After is added to it.
        `patience`: seconds for which a service that is away is retried, however many tries that takes.
        """
        asked = error.retry_after if isinstance(error, ApiError) else None
        if not self._passes(error, tries, waited, patience) or (asked or 0) > max(self.longest_wait, patience):
            return None
        bound = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 32))
        if isinstance(error, Unreachable) and error.refused:
            bound = min(bound, REFUSED_SECONDS)
        return (asked or 0) + self.draw() * bound

    def _passes(self, error: ClientError, tries: int, waited: float, patience: float) -> bool:
        if isinstance(error, RequestInProgress):
            return self.times > 0 and waited < self.longest_wait
        if isinstance(error, Unreachable):
            if error.refused:
                return self.times > 0 and waited < max(REFUSED_SECONDS, patience)
        elif not is_away(error):
            return False
        return waited < patience if patience > 0 else tries <= self.times


@dataclass
class Sender:
    """Sends requests to one service. Raises ApiError for answers of 400 or above, Unreachable without an answer."""

    transport: Transport
    url: str
    retries: Retries
    proxy: str | None = None  # what requests go through, for errors
    secrets: frozenset[str] = frozenset()  # what no error may show
    answered: bool = False  # whether the service has answered, so that its address is right

    async def send(self, request: Request, patience: float = 0.0) -> httpx2.Response:
        """The answer, below 400, after retries. `patience`: seconds for which a service that is away is retried."""
        tries = RetryState(self, patience)
        while True:
            try:
                return await self.once(request)
            except ClientError as error:
                untouched = isinstance(error, Unreachable) and error.refused
                if not (request.repeatable or untouched):
                    raise
                await tries.again(error)

    async def once(self, request: Request) -> httpx2.Response:
        """The answer, below 400, of one try."""
        try:
            response = await self.transport.send(request)
        except httpx2.TransportError as error:
            raise self.unreachable(error) from error
        if response.status_code >= 400:
            raise self._refusal(response)
        return response

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        """An answer below 400 as a stream. One try: only the reader knows where to resume."""
        try:
            async with self.transport.stream(request) as stream:
                if stream.response.status_code >= 400:
                    await stream.read()
                    raise self._refusal(stream.response)
                yield stream
        except httpx2.TransportError as error:
            raise self.unreachable(error) from error

    def json_of(self, response: httpx2.Response) -> dict[str, object]:
        """The JSON object of an answer. Raises BadAnswer unless it has `object` or `version`, as gradq's have."""
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or answer.keys().isdisjoint(("object", "version")):
            detail = f"{self.url} answers{through(self.proxy)}, but it is not a gradq service; check the address"
            raise BadAnswer("not_gradq", detail, self.proxy)
        self.answered = True
        return answer

    def _refusal(self, response: httpx2.Response) -> ApiError:
        error = problem_of(response, self.proxy)
        self.answered = self.answered or error.of_gradq
        return error

    def unreachable(self, error: Exception) -> Unreachable:
        reason = masked(str(error) or type(error).__name__, self.secrets)
        refused = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
        return Unreachable(self.url, reason, refused, self.proxy)


@dataclass
class RetryState:
    """Number of failed tries, and the time of the first. `patience` as in `Retries.pause`; there is none for errors of
    a wrong address until the service has answered."""

    sender: Sender
    patience: float = 0.0
    count: int = 0
    since: float = field(default_factory=lambda: time.monotonic())

    def went_well(self, patience: float = 0.0) -> None:
        """Starts counting again, after a success."""
        self.count, self.since, self.patience = 0, time.monotonic(), patience

    async def again(self, error: ClientError, at_most: float = float("inf")) -> None:
        """Sleeps until the next try, `at_most` that many seconds. Raises `error` if there is none."""
        self.count += 1
        error.tries = self.count
        refused = isinstance(error, Unreachable) and error.refused
        elsewhere = isinstance(error, NotFound) and not error.of_gradq
        wrong_address = isinstance(error, BadAnswer) or refused or elsewhere
        patience = 0.0 if wrong_address and not self.sender.answered else self.patience
        seconds = self.sender.retries.pause(error, self.count, time.monotonic() - self.since, patience)
        if seconds is None:
            raise error
        await self.sender.transport.sleep(max(0.0, min(seconds, at_most)))


def problem_of(response: httpx2.Response, proxy: str | None = None) -> ApiError:
    try:
        body = response.json()
    except ValueError:
        body = None
    return from_problem(response.status_code, response.reason_phrase, body, retry_after(response), proxy)


def retry_after(response: httpx2.Response) -> float | None:
    """The seconds of the Retry-After header, which holds seconds or a date; None without one."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
