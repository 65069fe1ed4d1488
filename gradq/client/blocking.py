"""The blocking client. `gradq.client.asynchronous` has the same calls for an event loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import httpx2

from gradq.client.calls import Calls
from gradq.client.environment import DEFAULT_URL as DEFAULT_URL
from gradq.client.environment import Target
from gradq.client.job import Job
from gradq.client.masking import without_secrets
from gradq.client.sender import Retries, Sender
from gradq.client.transport import Blocking, Transport, finish, iterate, options
from gradq.client.types import Action, Json, Part

ANSWER_SECONDS = 30.0
RETRIES = 5


class Client:
    """Calls one service. Safe to share between threads; keeps connections open until `close`; a context manager.

    `url` defaults to GRADQ_URL, else http://127.0.0.1:8080; `token` to GRADQ_TOKEN, and an empty one sends none.
    `timeout`: seconds that an answer may take. Broken connections and the statuses 429, 502, 503 and 504 are retried up
    to `retries` times; a submit that was sent twice is one job.

    Addresses of this machine are asked directly; for others the environment's proxy is used (HTTP_PROXY, HTTPS_PROXY,
    ALL_PROXY, NO_PROXY), and named in errors. Raises InvalidSetting if an address, token or proxy cannot be used.

    Each call raises Unreachable if the service does not answer, and an ApiError for an answer of 400 or above.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, timeout: float = ANSWER_SECONDS, retries: int = RETRIES
    ) -> None:
        target = Target.of(url, token)
        self.url = target.url
        http = httpx2.Client(**options(target, timeout))
        self._calls = calls_over(Blocking(http), target, timeout, retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {without_secrets(self.url)}>"

    def close(self) -> None:
        """Close the connections."""
        finish(self._calls.sender.transport.close())

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def submit(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a training job and return it.

        Takes a spec, fields of one, or both; fields override the spec. The service fills in the defaults. Two submits
        with the same `idempotency_key` within 24 hours return the same job. Raises InvalidSpec, which names each wrong
        field.
        """
        return self._job(finish(self._calls.submit({**(spec or {}), **fields}, idempotency_key)))

    def dry_run(self, spec: Mapping[str, Any] | None = None, /, **fields: Any) -> Json:
        """Return what a job would cost, without queueing one.

        The spec with its defaults, `parameters`, `steps`, `estimated_seconds` and `estimated_memory_bytes`. Raises
        InvalidSpec.
        """
        return finish(self._calls.dry_run({**(spec or {}), **fields}))

    def check(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a gradient check and return its job, which compares manual gradients with autograd's.

        Nothing is trained. Arguments and exceptions as for `submit`.
        """
        return self._job(finish(self._calls.check({**(spec or {}), **fields}, idempotency_key)))

    def walk(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> Job:
        """Queue a walk and return its job: one batch forward and backward through a linear or two-layer network.

        Each stage is computed by hand and by autograd; the file `walk.json` has both. Arguments and exceptions as for
        `submit`.
        """
        return self._job(finish(self._calls.walk({**(spec or {}), **fields}, idempotency_key)))

    def job(self, id: str, /, *, fetch: bool = True, patience: float = 0.0) -> Job:
        """Return the job with this id. Raises NotFound.

        `patience`: seconds for which a service that is away (cut connections, 502, 503, 504) is retried.
        With `fetch=False` no request is sent: the handle has only its id until one of its methods sends one.
        """
        return self._job(finish(self._calls.job(id, patience)) if fetch else {"id": id})

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
        """Yield the jobs that match, newest first, at most `limit`; pages are fetched during the iteration.

        `status`: one or several states. `name`: `*` matches any text. `owner`: jobs of this owner, for the scope
        `admin`. Times: a datetime (local if it has no zone), or RFC 3339. Raises InvalidQuery.
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
        """Return one page of jobs as the service sends it: `data`, `first_id`, `last_id`, `has_more`.

        Filters as for `jobs`. `limit` is at most 100; `after` is the `last_id` of the previous page. Raises
        InvalidQuery.
        """
        rest = {"owner": owner, "created_after": created_after, "created_before": created_before}
        return finish(self._calls.page(limit, after, status=status, name=name, labels=labels, **rest))

    def bulk(
        self, action: Action, *, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None
    ) -> list[Json]:
        """Cancel, pause, resume, retry or delete many jobs, and return one outcome per job.

        Takes either `ids`, or `filter` with the fields of `jobs`, which selects the matching jobs whose state allows
        the action. An outcome has `id`, `ok`, and `status` or `error`. Raises ValueError for both or neither.
        """
        return finish(self._calls.bulk(action, ids, filter))

    # --- the service --------------------------------------------------------------------------------------------------

    def presets(self) -> list[Json]:
        """Return the reference article's experiments: name, description, spec, and the article's figures."""
        return finish(self._calls.all_of("presets"))

    def architectures(self) -> list[Json]:
        """Return the architectures that can be trained: type, fields, an example."""
        return finish(self._calls.all_of("architectures"))

    def datasets(self) -> list[Json]:
        """Return the datasets: built-in ones first, then uploaded ones, newest first."""
        return finish(self._calls.all_of("datasets"))

    def dataset(self, id: str, /) -> Json:
        """Return one dataset by its name or ds_… id. Raises NotFound."""
        return finish(self._calls.dataset(id))

    def add_dataset(self, files: Part | Mapping[str, Part], /, **fields: Any) -> Json:
        """Upload a dataset and return it; a job's `dataset` takes its `id`.

        `files` is the path of an .npz or of a zip of class folders, or an IDX pair: {"images": path, "labels": path},
        optionally with "test_images" and "test_labels". A path may be replaced by (file name, open file). Files are
        streamed. Fields: `name`, `size` (pixels per side), `test_fraction`, `seed`, `white` (the number that is white
        in arrays). The answer's `warnings` say what to check. Raises InvalidUpload, TooLarge.
        """
        return finish(self._calls.add_dataset(files, fields))

    def delete_dataset(self, id: str, /) -> int:
        """Delete an uploaded dataset and return the number of bytes freed.

        Raises NotFound, or DatasetInUse if a job still needs it.
        """
        return finish(self._calls.delete_dataset(id))

    def workers(self) -> list[Json]:
        """Return the live workers: devices, slots, running jobs."""
        return finish(self._calls.all_of("workers"))

    def queues(self) -> list[Json]:
        """Return one entry per requested kind of device: jobs, slots, and the reasons why jobs wait."""
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
        """Yield the entries of the audit log, newest first, at most `limit`.

        `action`: such as `jobs.submit`. `object`: the id of a job or dataset. `since`: a datetime, or RFC 3339. Raises
        InsufficientScope unless the token has the scope `admin`.
        """
        filter = {"owner": owner, "action": action, "object": object, "since": since}
        yield from iterate(self._calls.audit(limit, **filter))

    def version(self) -> Json:
        """Return the versions of the service, of its Python and of its API."""
        return finish(self._calls.version())

    def whoami(self) -> Json:
        """Return `owner`, `scopes` and `token_id` of this client's token. Raises Unauthorized."""
        return finish(self._calls.whoami())

    def ready(self) -> bool:
        """Whether the service answers and reaches its database. One try; does not raise Unreachable."""
        return finish(self._calls.ready())

    def _job(self, json: Json) -> Job:
        return Job(self._calls, json)


def calls_over(transport: Transport, target: Target, timeout: float, retries: int) -> Calls:
    proxy = None if target.proxy is None else str(target.proxy)
    retried = Retries(retries, longest_wait=timeout)
    return Calls(Sender(transport, without_secrets(target.url), retried, proxy, target.secrets))
