"""The client for programs that wait for each answer. `gradq.client.asynchronous` has the same for an event loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import httpx2

from gradq.client.calls import Calls
from gradq.client.job import Job
from gradq.client.problems import Unreachable
from gradq.client.sender import Retries, Sender
from gradq.client.transport import Blocking, Transport, finish, iterate, options
from gradq.client.types import Action, Json, Part

DEFAULT_URL = "http://127.0.0.1:8080"
ANSWER_SECONDS = 30.0
RETRIES = 5


class Client:
    """One service at one address; holds connections until closed. For several threads; also as a context manager.

    `url` defaults to GRADQ_URL, else http://127.0.0.1:8080; `token` to GRADQ_TOKEN. `timeout` is how long an answer may
    take, in seconds. What is lost on the way, or meets a service that is busy (429) or away (503), is sent again up to
    `retries` times; a submit that was sent twice is one job.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, timeout: float = ANSWER_SECONDS, retries: int = RETRIES
    ) -> None:
        self.url = address(url)
        http = httpx2.Client(**options(self.url, token or os.environ.get("GRADQ_TOKEN"), timeout))
        self._calls = calls_over(Blocking(http), self.url, timeout, retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

    def close(self) -> None:
        """Close the connections."""
        finish(self._calls.sender.transport.close())

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a training job: a spec, fields of one, or both (fields win). The service fills in what is left out.

        Two submits with one `idempotency_key` are one job, for 24 hours. Raises InvalidSpec, which names each wrong
        field.
        """
        return self._job(finish(self._calls.submit({**(spec or {}), **fields}, idempotency_key)))

    def dry_run(self, spec: Mapping[str, Any] | None = None, /, **fields: Any) -> Json:
        """What a job would cost: the whole spec, parameters, steps, estimated seconds and bytes. Nothing is stored."""
        return finish(self._calls.dry_run({**(spec or {}), **fields}))

    def check(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a gradient check: a job that trains nothing and compares gradients by hand with autograd's."""
        return self._job(finish(self._calls.check({**(spec or {}), **fields}, idempotency_key)))

    def walk(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a walk: one batch through a linear or two-layer net and back, each stage by hand and by autograd.

        What it found is in the file `walk.json`.
        """
        return self._job(finish(self._calls.walk({**(spec or {}), **fields}, idempotency_key)))

    def job(self, id: str, /, *, fetch: bool = True) -> Job:
        """The job with this id; raises NotFound.

        With `fetch=False` nothing is asked: a handle that knows its id alone until one of its methods has asked.
        """
        return self._job(finish(self._calls.job(id)) if fetch else {"id": id})

    def jobs(
        self,
        *,
        status: str | Sequence[str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        labels: Mapping[str, str] | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """All jobs that match, newest first, fetched page by page as the loop goes on; at most `limit`.

        `status`: one or several states. `name`: `*` stands for any text. `owner`: for admins, whose jobs alone. Times:
        a datetime, or RFC 3339.
        """
        rest = {"owner": owner, "created_after": created_after, "created_before": created_before}
        for json in iterate(self._calls.jobs(limit, status=status, name=name, labels=labels, **rest)):
            yield self._job(json)

    def page(
        self,
        *,
        status: str | Sequence[str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        labels: Mapping[str, str] | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> Json:
        """One page of jobs as the service sends it: `data`, `first_id`, `last_id`, `has_more`.

        `limit` is at most 100; `after` is the `last_id` of the page before.
        """
        rest = {"owner": owner, "created_after": created_after, "created_before": created_before}
        return finish(self._calls.page(limit, after, status=status, name=name, labels=labels, **rest))

    def bulk(
        self, action: Action, *, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None
    ) -> list[Json]:
        """Cancel, pause, resume, retry or delete many jobs.

        Those of `ids`; or those that match `filter`, which has the fields of `jobs`, and whose state allows it. One
        outcome a job: `id`, `ok`, and `status` or `error`.
        """
        return finish(self._calls.bulk(action, ids, filter))

    # --- the service --------------------------------------------------------------------------------------------------

    def presets(self) -> list[Json]:
        """The reference article's experiments: name, description, spec, what was printed."""
        return finish(self._calls.all_of("presets"))

    def architectures(self) -> list[Json]:
        """What can be trained: type, fields, an example."""
        return finish(self._calls.all_of("architectures"))

    def datasets(self) -> list[Json]:
        """What can be trained on: built-in datasets first, then uploaded ones, newest first."""
        return finish(self._calls.all_of("datasets"))

    def dataset(self, id: str, /) -> Json:
        """One dataset, by its name or ds_… id."""
        return finish(self._calls.dataset(id))

    def add_dataset(self, files: Part | Mapping[str, Part], /, **fields: Any) -> Json:
        """Upload a dataset; the `id` that comes back is what a job's `dataset` names.

        `files` is the path of an .npz or of a zip of class folders, or an IDX pair: {"images": path, "labels": path},
        with "test_images" and "test_labels". Instead of a path: (file name, open file). Files are streamed. Fields:
        name, size, test_fraction, seed.
        """
        return finish(self._calls.add_dataset(files, fields))

    def delete_dataset(self, id: str, /) -> int:
        """Delete an uploaded dataset; returns how many bytes that freed. DatasetInUse: a job still needs it."""
        return finish(self._calls.delete_dataset(id))

    def workers(self) -> list[Json]:
        """Live workers: devices, slots, running jobs."""
        return finish(self._calls.all_of("workers"))

    def queues(self) -> list[Json]:
        """What waits for which kind of device, and why."""
        return finish(self._calls.all_of("queues"))

    def audit(
        self,
        *,
        owner: str | None = None,
        action: str | None = None,
        object: str | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
    ) -> Iterator[Json]:
        """Who did what, newest first: for a token with the scope `admin`.

        `action`: as `jobs.submit`. `object`: the id of a job or dataset. `since`: a datetime, or RFC 3339.
        """
        filter = {"owner": owner, "action": action, "object": object, "since": since}
        yield from iterate(self._calls.audit(limit, **filter))

    def version(self) -> Json:
        """The versions of the service, of its Python and of its API."""
        return finish(self._calls.version())

    def whoami(self) -> Json:
        """Whom the service takes this client for: `owner`, `scopes`, `token_id`."""
        return finish(self._calls.whoami())

    def ready(self) -> bool:
        """True once the service reaches its database."""
        return finish(self._calls.ready())

    def _job(self, json: Json) -> Job:
        return Job(self._calls, json)


def address(url: str | None) -> str:
    """Where the service is; raises Unreachable for what is no address."""
    found = (url or os.environ.get("GRADQ_URL") or DEFAULT_URL).rstrip("/")
    try:
        parts = httpx2.URL(found)
    except httpx2.InvalidURL as error:
        raise Unreachable(found, f"not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise Unreachable(found, f"not an address; one looks like {DEFAULT_URL}")
    return found


def calls_over(transport: Transport, url: str, timeout: float, retries: int) -> Calls:
    return Calls(Sender(transport, url, Retries(retries, longest_wait=timeout)))
