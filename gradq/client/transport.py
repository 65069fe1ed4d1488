"""Two transports for one set of coroutines, in which the whole client is written.

Over `Awaiting` the coroutines run in an event loop. Over `Blocking` they never suspend, so `finish` runs one to its end
without an event loop or a thread.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, TypeVar

import httpx2

from gradq.client.environment import Target
from gradq.version import VERSION

CONNECT_SECONDS, WRITE_SECONDS = 5.0, 30.0

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One request as a value, so that it can be sent again. `timeout`: seconds to wait for the answer."""

    method: str
    path: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    files: list[tuple[str, tuple[str, bytes | IO[bytes]]]] | None = None
    data: Mapping[str, str] | None = None
    timeout: float | None = None
    pure: bool = False  # a POST that changes nothing

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent twice: a POST that changes something needs a key, and files must be seekable."""
        streams = [part for _, (_, part) in self.files or [] if not isinstance(part, bytes)]
        once = self.method != "POST" or self.pure or "Idempotency-Key" in self.headers
        return once and all(part.seekable() for part in streams)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of httpx2's `request` and `stream`."""
        for _, (_, part) in self.files or []:
            if not isinstance(part, bytes) and part.seekable():
                part.seek(0)  # an earlier try has read it
        given: dict[str, Any] = {"headers": dict(self.headers), "params": dict(self.params)}
        given |= {name: value for name in ("json", "content", "files", "data") if (value := getattr(self, name))}
        if self.json is not None:
            given["json"] = self.json
        if self.timeout is not None:
            given["timeout"] = httpx2.Timeout(WRITE_SECONDS, connect=CONNECT_SECONDS, read=self.timeout, pool=None)
        return {"method": self.method, "url": self.path, **given}


class Stream(Protocol):
    """An answer whose body is read in parts."""

    response: httpx2.Response

    async def read(self) -> None: ...
    def chunks(self) -> AsyncIterator[bytes]: ...
    def events(self) -> AsyncIterator[httpx2.ServerSentEvent]: ...


class Transport(Protocol):
    """Sends requests and sleeps, blocking or awaiting."""

    async def send(self, request: Request) -> httpx2.Response: ...
    def stream(self, request: Request) -> AbstractAsyncContextManager[Stream]: ...
    async def sleep(self, seconds: float) -> None: ...
    async def close(self) -> None: ...


# --- without an event loop --------------------------------------------------------------------------------------------


class Blocking:
    """Sends requests with an httpx2.Client. Its coroutines block, and never suspend."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    async def send(self, request: Request) -> httpx2.Response:
        return self._http.request(**request.arguments())

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        with self._http.stream(**request.arguments()) as response:
            yield _BlockingStream(response)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self) -> None:
        self._http.close()


@dataclass
class _BlockingStream:
    response: httpx2.Response

    async def read(self) -> None:
        self.response.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self.response.iter_bytes():
            yield chunk

    async def events(self) -> AsyncIterator[httpx2.ServerSentEvent]:
        for event in httpx2.EventSource(self.response):
            yield event


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine over `Blocking` and returns its result. Raises RuntimeError if it suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("a coroutine of the blocking client tried to wait for an event loop")


def iterate(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Yields what an asynchronous generator over `Blocking` yields, and closes it at the end."""
    try:
        while True:
            try:
                yield finish(source.asend(None))
            except StopAsyncIteration:
                return
    finally:
        finish(source.aclose())


# --- in an event loop -------------------------------------------------------------------------------------------------


class Awaiting:
    """Sends requests with an httpx2.AsyncClient."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def send(self, request: Request) -> httpx2.Response:
        return await self._http.request(**request.arguments())

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        async with self._http.stream(**request.arguments()) as response:
            yield _AwaitingStream(response)

    async def sleep(self, seconds: float) -> None:
        import asyncio  # here, since the blocking client does not need it

        await asyncio.sleep(seconds)

    async def close(self) -> None:
        await self._http.aclose()


@dataclass
class _AwaitingStream:
    response: httpx2.Response

    async def read(self) -> None:
        await self.response.aread()

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self.response.aiter_bytes():
            yield chunk

    async def events(self) -> AsyncIterator[httpx2.ServerSentEvent]:
        async for event in httpx2.EventSource(self.response):
            yield event


# --- connections ------------------------------------------------------------------------------------------------------


def options(target: Target, timeout: float) -> dict[str, Any]:
    """The keyword arguments of httpx2's clients. `timeout`: seconds that an answer may take.

    httpx2 does not read the environment, which `target` has: it would use a proxy for this machine's addresses as well.
    """
    headers = {"Accept": "application/json", "User-Agent": f"gradq/{VERSION}"}
    if target.authorization is not None:
        headers["Authorization"] = target.authorization
    return {
        "base_url": target.url,
        "headers": headers,
        "timeout": httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout), pool=None),
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        "verify": target.verify,
        "proxy": None if target.proxy is None else target.proxy.url,
        "trust_env": False,
    }
