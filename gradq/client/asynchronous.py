"""The client for an asyncio event loop: the calls of `Client` and `Job`, awaited. What each does stands there."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import httpx2

from gradq.client import curve, downloads, events, images, notebook, waiting
from gradq.client.blocking import ANSWER_SECONDS, RETRIES, address, calls_over
from gradq.client.calls import WHOLE, Calls
from gradq.client.events import Event, EventType
from gradq.client.images import Predictions
from gradq.client.job import MODEL_FILES, changes
from gradq.client.job_view import JobView
from gradq.client.problems import JobFailed, WaitTimeout
from gradq.client.transport import Awaiting, options
from gradq.client.types import Action, Json, Part, Points

if TYPE_CHECKING:
    from torch import nn


class AsyncClient:
    """One service at one address, as `Client`; `async with AsyncClient() as client`."""

    def __init__(
        self, url: str | None = None, token: str | None = None, timeout: float = ANSWER_SECONDS, retries: int = RETRIES
    ) -> None:
        self.url = address(url)
        http = httpx2.AsyncClient(**options(self.url, token or os.environ.get("GRADQ_TOKEN"), timeout))
        self._calls = calls_over(Awaiting(http), self.url, timeout, retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient {self.url}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.sender.transport.close()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def submit(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queue a training job, as `Client.submit`."""
        return self._job(await self._calls.submit({**(spec or {}), **fields}, idempotency_key))

    async def dry_run(self, spec: Mapping[str, Any] | None = None, /, **fields: Any) -> Json:
        """What a job would cost, as `Client.dry_run`."""
        return await self._calls.dry_run({**(spec or {}), **fields})

    async def check(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queue a gradient check, as `Client.check`."""
        return self._job(await self._calls.check({**(spec or {}), **fields}, idempotency_key))

    async def walk(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queue a walk, as `Client.walk`."""
        return self._job(await self._calls.walk({**(spec or {}), **fields}, idempotency_key))

    async def job(self, id: str, /, *, fetch: bool = True) -> AsyncJob:
        """The job with this id, as `Client.job`."""
        return self._job(await self._calls.job(id) if fetch else {"id": id})

    async def jobs(
        self,
        *,
        status: str | Sequence[str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        labels: Mapping[str, str] | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[AsyncJob, None]:
        """All jobs that match, newest first, as `Client.jobs`: `async for job in client.jobs()`."""
        rest = {"owner": owner, "created_after": created_after, "created_before": created_before}
        async with aclosing(self._calls.jobs(limit, status=status, name=name, labels=labels, **rest)) as found:
            async for json in found:
                yield self._job(json)

    async def page(
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
        """One page of jobs, as `Client.page`."""
        rest = {"owner": owner, "created_after": created_after, "created_before": created_before}
        return await self._calls.page(limit, after, status=status, name=name, labels=labels, **rest)

    async def bulk(
        self, action: Action, *, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None
    ) -> list[Json]:
        """Steer or delete many jobs, as `Client.bulk`."""
        return await self._calls.bulk(action, ids, filter)

    # --- the service --------------------------------------------------------------------------------------------------

    async def presets(self) -> list[Json]:
        """The reference article's experiments."""
        return await self._calls.all_of("presets")

    async def architectures(self) -> list[Json]:
        """What can be trained."""
        return await self._calls.all_of("architectures")

    async def datasets(self) -> list[Json]:
        """What can be trained on."""
        return await self._calls.all_of("datasets")

    async def dataset(self, id: str, /) -> Json:
        """One dataset, by its name or ds_… id."""
        return await self._calls.dataset(id)

    async def add_dataset(self, files: Part | Mapping[str, Part], /, **fields: Any) -> Json:
        """Upload a dataset, as `Client.add_dataset`."""
        return await self._calls.add_dataset(files, fields)

    async def delete_dataset(self, id: str, /) -> int:
        """Delete an uploaded dataset, as `Client.delete_dataset`."""
        return await self._calls.delete_dataset(id)

    async def workers(self) -> list[Json]:
        """Live workers: devices, slots, running jobs."""
        return await self._calls.all_of("workers")

    async def queues(self) -> list[Json]:
        """What waits for which kind of device, and why."""
        return await self._calls.all_of("queues")

    async def audit(
        self,
        *,
        owner: str | None = None,
        action: str | None = None,
        object: str | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Json, None]:
        """Who did what, newest first: for a token with the scope `admin`.

        `action`: as `jobs.submit`. `object`: the id of a job or dataset. `since`: a datetime, or RFC 3339.
        """
        filter = {"owner": owner, "action": action, "object": object, "since": since}
        async with aclosing(self._calls.audit(limit, **filter)) as found:
            async for entry in found:
                yield entry

    async def version(self) -> Json:
        """The versions of the service, of its Python and of its API."""
        return await self._calls.version()

    async def whoami(self) -> Json:
        """Whom the service takes this client for: `owner`, `scopes`, `token_id`."""
        return await self._calls.whoami()

    async def ready(self) -> bool:
        """True once the service reaches its database."""
        return await self._calls.ready()

    def _job(self, json: Json) -> AsyncJob:
        return AsyncJob(self._calls, json)


class AsyncJob(JobView):
    """A job of one service, as `Job`: what asks the service is awaited, what was seen last is not."""

    def __init__(self, calls: Calls, json: Json) -> None:
        super().__init__(json)
        self._calls = calls

    async def refresh(self, wait: float = 0.0) -> Self:
        """Look again, as `Job.refresh`."""
        if wait > 0:
            return self._now(await waiting.until_changed(self._calls, self.id, self.json, wait))
        return self._now(await self._calls.job(self.id))

    async def wait(self, timeout: float | None = None, poll: float | None = None, check: bool = False) -> Self:
        """Return when the job has ended, as `Job.wait`."""
        async with aclosing(waiting.until_terminal(self._calls, self.id, timeout, poll)) as seen:
            async for json in seen:
                self._now(json)
        if not self.terminal:
            raise WaitTimeout(self, timeout or 0.0)
        if check and not self.succeeded:
            raise JobFailed(self)
        return self

    async def watch(self, after: int = 0, type: EventType | None = None) -> AsyncGenerator[Event, None]:
        """The job's log as it grows, as `Job.watch`: `async for event in job.watch()`."""
        async with aclosing(events.follow(self._calls, self.id, after, type)) as lines:
            async for event in lines:
                yield event
        self._now(await self._calls.job(self.id, waiting.PATIENCE_SECONDS))

    async def events(self, after: int = 0, type: EventType | None = None) -> list[Event]:
        """The lines that the log holds now, behind the cursor `after`."""
        return await events.page(self._calls, self.id, after, type)

    async def metrics(self, *keys: str, max_points: int = WHOLE) -> dict[str, Points]:
        """Name -> [[step, epoch, value], …], as `Job.metrics`."""
        return await self._calls.metrics(self.id, keys, max_points)

    async def curve(self, *keys: str) -> Any:
        """The metrics as a table with a row a step, as `Job.curve`."""
        return curve.frame(await self.metrics(*keys))

    async def artifacts(self) -> list[Json]:
        """Its files: name, kind, media_type, size_bytes, sha256, created_at."""
        return await self._calls.artifacts(self.id)

    async def download(self, folder: str | Path, names: str | Sequence[str] | None = None) -> list[Path]:
        """Fetch all files, or those that `names` lists, as `Job.download`."""
        return await downloads.files(self._calls, self.id, Path(folder), names)

    async def download_zip(self, path: str | Path) -> Path:
        """Fetch all files as one zip, as `Job.download_zip`."""
        return await downloads.zipped(self._calls, self.id, Path(path))

    async def model(self) -> nn.Module:
        """The trained net as a torch module, as `Job.model`."""
        from gradq.client import rebuild

        with TemporaryDirectory() as folder:
            await self.download(folder, MODEL_FILES)
            return rebuild.load(folder)

    async def predict(self, images_: Any, /, *, invert: bool = False) -> Predictions:
        """What the finished model sees, as `Job.predict`."""
        return Predictions(await self._calls.predict(self.id, images.body_of(images_), invert))

    async def cancel(self) -> Self:
        """End it; one that runs ends after its checkpoint is written."""
        return await self._act("cancel")

    async def pause(self) -> Self:
        """Write a checkpoint, free the slot, and wait for `resume`."""
        return await self._act("pause")

    async def resume(self) -> Self:
        """Queue a paused job again; it goes on from its checkpoint."""
        return await self._act("resume")

    async def retry(self) -> Self:
        """Queue a failed or cancelled job again, under the same id."""
        return await self._act("retry")

    async def reproduce(self) -> AsyncJob:
        """Run a finished job again as a new one, as `Job.reproduce`."""
        return AsyncJob(self._calls, await self._calls.act(self.id, "reproduce"))

    async def update(
        self,
        *,
        priority: int | None = None,
        labels: Mapping[str, str | None] | None = None,
        name: str | None = None,
    ) -> Self:
        """Change priority, name or labels, as `Job.update`."""
        return self._now(await self._calls.update(self.id, changes(priority, labels, name)))

    async def delete(self) -> int:
        """Delete an ended job with its log and files; returns how many bytes that freed."""
        return await self._calls.delete(self.id)

    async def _act(self, action: str) -> Self:
        return self._now(await self._calls.act(self.id, action))

    def _now(self, json: Json) -> Self:
        self._json = json
        return self

    def _repr_html_(self) -> str:
        """What a notebook shows of it: its state as seen last, since a cell's value cannot be awaited."""
        return notebook.html(self)
