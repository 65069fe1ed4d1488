"""Each call of the HTTP contract, once: method, path, parameters, body, and the part of the answer that it returns.

Coroutines over a `Sender`; the blocking and the asynchronous client both run these.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from uuid import uuid4

from gradq.client.problems import ApiError, ClientError, NotFound, Unreachable
from gradq.client.sender import Sender, retry_after
from gradq.client.spec_json import as_json
from gradq.client.transport import Request
from gradq.client.types import Json, Part, Points

PAGE = 100  # the most jobs that a page holds
BULK = 1000  # the most jobs of one bulk call
WHOLE = 1_000_000  # points of a curve: more than any has, so it is not downsampled
DECODE_SECONDS = 3600.0  # how long the service may take to decode an upload before it answers
HELD_SECONDS = 10.0  # how long a long poll may take beyond its wait


@dataclass(frozen=True)
class JobSnapshot:
    """A job as received once. `interval`: seconds after which the service wants the next request (Retry-After).
    `away`: why there is no newer one, if the service has not answered since."""

    job: Json
    etag: str | None = None
    interval: float | None = None
    away: ClientError | None = None


class Calls:
    """The calls to one service. They return the JSON of the answer; of a list, its `data`."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def submit(self, spec: Mapping[str, Any], key: str | None = None) -> Json:
        return await self._post("/v1/jobs", json=as_json(spec), key=key)

    async def dry_run(self, spec: Mapping[str, Any]) -> Json:
        return await self._ask("/v1/jobs", json=as_json(spec), params={"dry_run": "true"})

    async def check(self, spec: Mapping[str, Any], key: str | None = None) -> Json:
        return await self._post("/v1/gradient-checks", json=as_json(spec), key=key)

    async def walk(self, spec: Mapping[str, Any], key: str | None = None) -> Json:
        return await self._post("/v1/walks", json=as_json(spec), key=key)

    async def job(self, job_id: str, patience: float = 0.0) -> Json:
        return await self._get(path_of(job_id), patience=patience)

    async def look(
        self, job_id: str, wait: float = 0.0, until: str | None = None, known: JobSnapshot | None = None
    ) -> JobSnapshot:
        """The job now; with `wait`, once it differs from `known` (with `until`: has ended) or after that many seconds.

        Not retried: a retry would wait that long again.
        """
        request = self._held(path_of(job_id), {"until": until}, wait)
        if known is not None and known.etag:
            request = replace(request, headers={"If-None-Match": known.etag})
        response = await self.sender.once(request)
        if known is not None and response.status_code == 304:
            return replace(known, interval=retry_after(response))
        return JobSnapshot(self.sender.json_of(response), response.headers.get("ETag"), retry_after(response))

    async def page(self, limit: int, after: str | None = None, **filter: Any) -> Json:
        return await self._get("/v1/jobs", {**query_of(filter), "limit": limit, "after": after})

    async def jobs(self, limit: int | None, **filter: Any) -> AsyncGenerator[Json, None]:
        async for job in self._pages("/v1/jobs", limit, query_of(filter)):
            yield job

    async def audit(self, limit: int | None, **filter: Any) -> AsyncGenerator[Json, None]:
        async for entry in self._pages("/v1/audit", limit, query_of(filter)):
            yield entry

    async def act(self, job_id: str, action: str) -> Json:
        return await self._post(f"{path_of(job_id)}/{action}")

    async def update(self, job_id: str, changes: Json) -> Json:
        return await self._json(Request("PATCH", path_of(job_id), json=changes))

    async def delete(self, job_id: str) -> int:
        """Returns the number of bytes freed."""
        return await self._delete(path_of(job_id))

    async def bulk(self, action: str, ids: Sequence[str] | None, filter: Mapping[str, Any] | None) -> list[Json]:
        """One outcome per job, from as many calls as needed. Raises ValueError unless exactly one of both is given."""
        if (ids is None) == (filter is None):
            raise ValueError("bulk takes either ids or filter, and exactly one of them")
        found: list[Json] = []
        for start in range(0, len(ids or []), BULK):
            assert ids is not None
            found += (await self._bulk(action, ids=list(ids[start : start + BULK])))["data"]
        wanted = None if filter is None else body_of(filter)
        while wanted is not None:
            answer = await self._bulk(action, filter=wanted)
            found += answer["data"]
            wanted = {**wanted, "after": answer["last_id"]} if answer["has_more"] else None
        return found

    async def _bulk(self, action: str, **which: Any) -> Json:
        return await self._post("/v1/jobs/bulk", json={"action": action, **which})

    # --- log, curve, files --------------------------------------------------------------------------------------------

    async def events(
        self, job_id: str, after: int = 0, type: str | None = None, wait: float = 0.0, patience: float = 0.0
    ) -> Json:
        request = self._held(f"{path_of(job_id)}/events", {"after": after, "type": type, "limit": 1000}, wait)
        return await self._json(request, patience)

    async def metrics(
        self, job_id: str, keys: Iterable[str] = (), max_points: int = WHOLE, patience: float = 0.0
    ) -> dict[str, Points]:
        query = {"keys": ",".join(keys) or None, "max_points": max_points}
        return dict((await self._get(f"{path_of(job_id)}/metrics", query, patience))["series"])

    async def artifacts(self, job_id: str) -> list[Json]:
        return list((await self._get(f"{path_of(job_id)}/artifacts"))["data"])

    async def picture(self, job_id: str) -> bytes:
        """The loss curve as SVG."""
        request = Request("GET", f"{path_of(job_id)}/loss_curve.svg", headers={"Accept": "image/svg+xml"})
        return (await self.sender.once(request)).content

    async def predict(self, job_id: str, body: Mapping[str, Any], invert: bool) -> Json:
        return await self._ask(f"{path_of(job_id)}/predict", params={"invert": str(invert).lower()}, **body)

    # --- the service --------------------------------------------------------------------------------------------------

    async def all_of(self, noun: str) -> list[Json]:
        """`noun`: presets, architectures, datasets, workers or queues."""
        return list((await self._get(f"/v1/{noun}"))["data"])

    async def dataset(self, dataset_id: str) -> Json:
        return await self._get(f"/v1/datasets/{quote(dataset_id, safe='')}")

    async def add_dataset(self, files: Part | Mapping[str, Part], fields: Mapping[str, Any]) -> Json:
        parts = dict(files) if isinstance(files, Mapping) else {"file": files}
        given = {name: str(value) for name, value in fields.items() if value is not None}
        with ExitStack() as stack:
            form: list[tuple[str, tuple[str, bytes | IO[bytes]]]] = []
            for name, part in parts.items():
                if isinstance(part, str | Path):
                    part = (Path(part).name, stack.enter_context(Path(part).open("rb")))
                form.append((name, part))
            return await self._post("/v1/datasets", files=form, data=given, timeout=DECODE_SECONDS)

    async def delete_dataset(self, dataset_id: str) -> int:
        return await self._delete(f"/v1/datasets/{quote(dataset_id, safe='')}")

    async def version(self) -> Json:
        return await self._get("/v1/version")

    async def whoami(self) -> Json:
        return await self._get("/v1/whoami")

    async def ready(self) -> bool:
        try:
            await self.sender.once(Request("GET", "/readyz"))
        except (ApiError, Unreachable):
            return False
        return True

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _pages(self, path: str, limit: int | None, query: Mapping[str, Any]) -> AsyncGenerator[Json, None]:
        """The rows of all pages, newest first, at most `limit`."""
        after, left = None, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = await self._get(path, {**query, "limit": size, "after": after})
            for found in page["data"]:
                yield found
            left = None if left is None else left - len(page["data"])
            after = page["last_id"]
            if not page["has_more"]:
                return

    async def _get(self, path: str, query: Mapping[str, Any] | None = None, patience: float = 0.0) -> Json:
        return await self._json(Request("GET", path, params=_given(query or {})), patience)

    def _held(self, path: str, query: Mapping[str, Any], wait: float) -> Request:
        """A GET that the service may hold for `wait` seconds."""
        if wait <= 0:
            return Request("GET", path, params=_given({**query, "until": None}))
        return Request("GET", path, params=_given({**query, "wait": round(wait, 3)}), timeout=wait + HELD_SECONDS)

    async def _post(self, path: str, key: str | None = None, **parts: Any) -> Json:
        """All tries share one Idempotency-Key, `key` or a new one, so the service executes the call once."""
        key = uuid4().hex if key is None else key
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"idempotency_key travels in a header: printable ASCII alone, got {key!r}")
        return await self._json(Request("POST", path, headers={"Idempotency-Key": key}, **parts))

    async def _ask(self, path: str, media_type: str | None = None, **parts: Any) -> Json:
        """A POST that changes nothing. It has no Idempotency-Key, so the service does not store the answer."""
        headers = {} if media_type is None else {"Content-Type": media_type}
        return await self._json(Request("POST", path, headers=headers, pure=True, **parts))

    async def _delete(self, path: str) -> int:
        try:
            return int((await self._json(Request("DELETE", path)))["freed_bytes"])
        except NotFound as error:
            if error.tries > 1 and error.of_gradq:  # deleted by an earlier try whose answer was lost
                return 0
            raise

    async def _json(self, request: Request, patience: float = 0.0) -> Json:
        return self.sender.json_of(await self.sender.send(request, patience))


def path_of(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def query_of(filter: Mapping[str, Any]) -> Json:
    """A list's filter as query parameters: one `label.K` per label, states separated by commas, times in RFC 3339."""
    query = {name: _text(value) for name, value in filter.items() if name != "labels"}
    return query | {f"label.{key}": value for key, value in (filter.get("labels") or {}).items()}


def body_of(filter: Mapping[str, Any]) -> Json:
    """A list's filter as JSON: states as a list, times in RFC 3339."""
    body = {name: _moment(value) for name, value in filter.items() if value is not None}
    if "status" in body:
        body["status"] = [body["status"]] if isinstance(body["status"], str) else list(body["status"])
    return body


def _text(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list | tuple | set | frozenset) else _moment(value)


def _moment(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.astimezone()).isoformat()
    return value


def _given(query: Mapping[str, Any]) -> Json:
    return {name: value for name, value in query.items() if value is not None}
