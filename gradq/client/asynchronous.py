"""The client for an asyncio event loop: the calls of `Client` and `Job`, awaited. Their docstrings apply here too."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import httpx2

from gradq.client import curve, downloads, events, images, notebook, waiting
from gradq.client.blocking import ANSWER_SECONDS, RETRIES, calls_over
from gradq.client.calls import WHOLE, Calls
from gradq.client.environment import Target
from gradq.client.events import Event, EventType
from gradq.client.images import Predictions
from gradq.client.job import MODEL_FILES, changes
from gradq.client.job_view import JobView
from gradq.client.masking import without_secrets
from gradq.client.problems import JobFailed, WaitTimeout
from gradq.client.transport import Awaiting, options
from gradq.client.types import Action, Json, Part, Points

if TYPE_CHECKING:
    from torch import nn


class AsyncClient:
    """Calls one service, as `Client` does; `async with AsyncClient() as client`."""

    def __init__(
        self, url: str | None = None, token: str | None = None, timeout: float = ANSWER_SECONDS, retries: int = RETRIES
    ) -> None:
        target = Target.of(url, token)
        self.url = target.url
        http = httpx2.AsyncClient(**options(target, timeout))
        self._calls = calls_over(Awaiting(http), target, timeout, retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient {without_secrets(self.url)}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.sender.transport.close()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    async def submit(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queue a training job and return it, as `Client.submit`."""
        return self._job(await self._calls.submit({**(spec or {}), **fields}, idempotency_key))

    async def dry_run(self, spec: Mapping[str, Any] | None = None, /, **fields: Any) -> Json:
        """Return what a job would cost, as `Client.dry_run`."""
        return await self._calls.dry_run({**(spec or {}), **fields})

    async def check(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queue a gradient check and return its job, as `Client.check`."""
        return self._job(await self._calls.check({**(spec or {}), **fields}, idempotency_key))

    async def walk(
        self, spec: Mapping[str, Any] | None = None, /, *, idempotency_key: str | None = None, **fields: Any
    ) -> AsyncJob:
        """Queue a walk and return its job, as `Client.walk`."""
        return self._job(await self._calls.walk({**(spec or {}), **fields}, idempotency_key))

    async def job(self, id: str, /, *, fetch: bool = True, patience: float = 0.0) -> AsyncJob:
        """Return the job with this id, as `Client.job`. Raises NotFound."""
        return self._job(await self._calls.job(id, patience) if fetch else {"id": id})

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
        """Yield the jobs that match, newest first, as `Client.jobs`: `async for job in client.jobs()`."""
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
        """Return one page of jobs, as `Client.page`."""
        rest = {"owner": owner, "created_after": created_after, "created_before": created_before}
        return await self._calls.page(limit, after, status=status, name=name, labels=labels, **rest)

    async def bulk(
        self, action: Action, *, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None
    ) -> list[Json]:
        """Cancel, pause, resume, retry or delete many jobs, and return one outcome per job, as `Client.bulk`."""
        return await self._calls.bulk(action, ids, filter)

    # --- the service --------------------------------------------------------------------------------------------------

    async def presets(self) -> list[Json]:
        """Return the reference article's experiments, as `Client.presets`."""
        return await self._calls.all_of("presets")

    async def architectures(self) -> list[Json]:
        """Return the architectures that can be trained, as `Client.architectures`."""
        return await self._calls.all_of("architectures")

    async def datasets(self) -> list[Json]:
        """Return the datasets, as `Client.datasets`."""
        return await self._calls.all_of("datasets")

    async def dataset(self, id: str, /) -> Json:
        """Return one dataset by its name or ds_… id. Raises NotFound."""
        return await self._calls.dataset(id)

    async def add_dataset(self, files: Part | Mapping[str, Part], /, **fields: Any) -> Json:
        """Upload a dataset and return it, as `Client.add_dataset`."""
        return await self._calls.add_dataset(files, fields)

    async def delete_dataset(self, id: str, /) -> int:
        """Delete an uploaded dataset and return the number of bytes freed, as `Client.delete_dataset`."""
        return await self._calls.delete_dataset(id)

    async def workers(self) -> list[Json]:
        """Return the live workers: devices, slots, running jobs."""
        return await self._calls.all_of("workers")

    async def queues(self) -> list[Json]:
        """Return one entry per requested kind of device, as `Client.queues`."""
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
        """Yield the entries of the audit log, newest first, as `Client.audit`."""
        filter = {"owner": owner, "action": action, "object": object, "since": since}
        async with aclosing(self._calls.audit(limit, **filter)) as found:
            async for entry in found:
                yield entry

    async def version(self) -> Json:
        """Return the versions of the service, of its Python and of its API."""
        return await self._calls.version()

    async def whoami(self) -> Json:
        """Return `owner`, `scopes` and `token_id` of this client's token. Raises Unauthorized."""
        return await self._calls.whoami()

    async def ready(self) -> bool:
        """Whether the service answers and reaches its database. One try; does not raise Unreachable."""
        return await self._calls.ready()

    def _job(self, json: Json) -> AsyncJob:
        return AsyncJob(self._calls, json)


class AsyncJob(JobView):
    """A job of one service, as `Job`. Methods that send a request are awaited; properties are not."""

    def __init__(self, calls: Calls, json: Json) -> None:
        super().__init__(json)
        self._calls = calls

    async def refresh(self, wait: float = 0.0) -> Self:
        """Fetch the job again and return this handle, as `Job.refresh`."""
        if wait > 0:
            return self._now(await waiting.until_changed(self._calls, self.id, self.json, wait))
        return self._now(await self._calls.job(self.id))

    async def wait(self, timeout: float | None = None, poll: float | None = None, check: bool = False) -> Self:
        """Return this handle once the job has ended, as `Job.wait`. Raises WaitTimeout, JobFailed."""
        away = None
        async with aclosing(waiting.until_terminal(self._calls, dict(self._json), timeout, poll)) as seen:
            async for look in seen:
                self._now(look.job)
                away = look.away
        if not self.terminal:
            raise WaitTimeout(self, timeout or 0.0) from away
        if check and not self.succeeded:
            raise JobFailed(self)
        return self

    async def watch(self, after: int = 0, type: EventType | None = None) -> AsyncGenerator[Event, None]:
        """Yield the lines of the job's log as they come, as `Job.watch`: `async for event in job.watch()`."""
        async with aclosing(events.follow(self._calls, self.id, after, type)) as lines:
            async for event in lines:
                yield event
        self._now(await self._calls.job(self.id, waiting.PATIENCE_SECONDS))

    async def events(self, after: int = 0, type: EventType | None = None) -> list[Event]:
        """Return the lines that the log has now, with a `seq` larger than `after`."""
        return await events.page(self._calls, self.id, after, type)

    async def metrics(self, *keys: str, max_points: int = WHOLE) -> dict[str, Points]:
        """Return name -> [[step, epoch, value], …], as `Job.metrics`."""
        return await self._calls.metrics(self.id, keys, max_points)

    async def curve(self, *keys: str) -> Any:
        """Return the metrics as a table with one row per step, as `Job.curve`."""
        return curve.frame(await self.metrics(*keys))

    async def artifacts(self) -> list[Json]:
        """Return the job's files: name, kind, media_type, size_bytes, sha256, created_at."""
        return await self._calls.artifacts(self.id)

    async def download(self, folder: str | Path, names: str | Sequence[str] | None = None) -> list[Path]:
        """Download all files, or those in `names`, and return their paths, as `Job.download`."""
        return await downloads.files(self._calls, self.id, Path(folder), names)

    async def download_zip(self, path: str | Path) -> Path:
        """Download all files as one zip and return `path`, as `Job.download_zip`."""
        return await downloads.zipped(self._calls, self.id, Path(path))

    async def model(self) -> nn.Module:
        """Return the trained model as a torch module, as `Job.model`."""
        from gradq.client import rebuild

        with TemporaryDirectory() as folder:
            await self.download(folder, MODEL_FILES)
            return rebuild.load(folder)

    async def predict(self, images_: Any, /, *, invert: bool = False, white: float | None = None) -> Predictions:
        """Return what the finished model predicts for each image, as `Job.predict`."""
        return Predictions(await self._calls.predict(self.id, images.body_of(images_, white), invert))

    async def cancel(self) -> Self:
        """Cancel the job; a running one ends once its checkpoint is written. Raises WrongState if it has ended."""
        return await self._act("cancel")

    async def pause(self) -> Self:
        """Write a checkpoint, free the slot, and wait for `resume`. Raises WrongState unless the job runs."""
        return await self._act("pause")

    async def resume(self) -> Self:
        """Queue a paused job again; it resumes from its checkpoint. Raises WrongState."""
        return await self._act("resume")

    async def retry(self) -> Self:
        """Queue a failed or cancelled job again, under the same id. Raises WrongState."""
        return await self._act("retry")

    async def reproduce(self) -> AsyncJob:
        """Queue a finished job again as a new job and return that, as `Job.reproduce`."""
        return AsyncJob(self._calls, await self._calls.act(self.id, "reproduce"))

    async def update(
        self,
        *,
        priority: int | None = None,
        labels: Mapping[str, str | None] | None = None,
        name: str | None = None,
    ) -> Self:
        """Change priority, name or labels, and return this handle, as `Job.update`."""
        return self._now(await self._calls.update(self.id, changes(priority, labels, name)))

    async def delete(self) -> int:
        """Delete an ended job with its log and files, and return the number of bytes freed. Raises WrongState."""
        return await self._calls.delete(self.id)

    async def _act(self, action: str) -> Self:
        return self._now(await self._calls.act(self.id, action))

    def _now(self, json: Json) -> Self:
        self._json = json
        return self

    def _repr_html_(self) -> str:
        """What a notebook shows: the state that was received last, since a notebook does not await a cell's value."""
        return notebook.html(self)
