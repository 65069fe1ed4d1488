"""One job in the hand of a program that waits: look, follow, steer, fetch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from gradq.client import curve, downloads, events, images, notebook, waiting
from gradq.client.calls import WHOLE, Calls
from gradq.client.events import Event, EventType
from gradq.client.images import Predictions
from gradq.client.job_view import JobView
from gradq.client.problems import ClientError, JobFailed, WaitTimeout
from gradq.client.transport import finish, iterate
from gradq.client.types import Json, Points

if TYPE_CHECKING:
    from torch import nn


class Job(JobView):
    """A job of one service. It holds what was seen last; `refresh`, `wait` and what steers it look again."""

    def __init__(self, calls: Calls, json: Json) -> None:
        super().__init__(json)
        self._calls = calls

    def refresh(self, wait: float = 0.0) -> Self:
        """Look again. With `wait`: as soon as it is no longer as it was seen last, and after so many seconds anyway."""
        if wait > 0:
            return self._now(finish(waiting.until_changed(self._calls, self.id, self.json, wait)))
        return self._now(finish(self._calls.job(self.id)))

    def wait(self, timeout: float | None = None, poll: float | None = None, check: bool = False) -> Self:
        """Return when the job has ended; a paused one has not.

        Raises WaitTimeout, a TimeoutError, after `timeout` seconds; the job goes on. With `check`, a job that failed or
        was cancelled raises JobFailed. The service tells of the end at once; with `poll` it is asked every so many
        seconds instead.
        """
        for json in iterate(waiting.until_terminal(self._calls, self.id, timeout, poll)):
            self._now(json)
        if not self.terminal:
            raise WaitTimeout(self, timeout or 0.0)
        if check and not self.succeeded:
            raise JobFailed(self)
        return self

    def watch(self, after: int = 0, type: EventType | None = None) -> Iterator[Event]:
        """The job's log as it grows, each line once and in order, until the job has ended. Outlives broken connections.

        `after`: only lines behind this cursor. `type`: only lines of this kind.
        """
        yield from iterate(events.follow(self._calls, self.id, after, type))
        self._now(finish(self._calls.job(self.id, waiting.PATIENCE_SECONDS)))

    def events(self, after: int = 0, type: EventType | None = None) -> list[Event]:
        """The lines that the log holds now, behind the cursor `after`."""
        return finish(events.page(self._calls, self.id, after, type))

    def metrics(self, *keys: str, max_points: int = WHOLE) -> dict[str, Points]:
        """Name -> [[step, epoch, value], …] in the order of steps; all metrics, or those that `keys` names.

        More than `max_points` of one are thinned, so that its minima and maxima stay.
        """
        return finish(self._calls.metrics(self.id, keys, max_points))

    def curve(self, *keys: str) -> Any:
        """The metrics as a table with a row a step: a pandas DataFrame with the index `step`.

        Without pandas a dict of lists of one length: `step`, and each metric with None where it has no point.
        """
        return curve.frame(self.metrics(*keys))

    def artifacts(self) -> list[Json]:
        """Its files: name, kind, media_type, size_bytes, sha256, created_at."""
        return finish(self._calls.artifacts(self.id))

    def download(self, folder: str | Path, names: str | Sequence[str] | None = None) -> list[Path]:
        """Fetch all files, or those that `names` lists. Each arrives whole with the right sha256, or not at all.

        A connection that breaks is taken up again where it broke.
        """
        return finish(downloads.files(self._calls, self.id, Path(folder), names))

    def download_zip(self, path: str | Path) -> Path:
        """Fetch all files as one zip; each in it has the sha256 that `artifacts` lists."""
        return finish(downloads.zipped(self._calls, self.id, Path(path)))

    def model(self) -> nn.Module:
        """The trained net as a torch module, on the CPU and in evaluation mode. Needs torch here.

        It takes normalized images: `net(net.normalize(images))`, with images (N,C,H,W) in [0, 1].
        """
        from gradq.client import rebuild

        with TemporaryDirectory() as folder:
            self.download(folder, MODEL_FILES)
            return rebuild.load(folder)

    def predict(self, images_: Any, /, *, invert: bool = False) -> Predictions:
        """What the finished model sees: `label`, `class` and `probabilities` of each image.

        Images are one or a list of paths or Pillow images of any size; or an array or nested lists of the model's size,
        (N,H,W) or (N,C,H,W): whole numbers from 0 to the dataset's white, or fractions in [0, 1]. `invert`: black on
        white, where the model learnt white on black.
        """
        return Predictions(finish(self._calls.predict(self.id, images.body_of(images_), invert)))

    def cancel(self) -> Self:
        """End it; one that runs ends after its checkpoint is written."""
        return self._act("cancel")

    def pause(self) -> Self:
        """Write a checkpoint, free the slot, and wait for `resume`."""
        return self._act("pause")

    def resume(self) -> Self:
        """Queue a paused job again; it goes on from its checkpoint."""
        return self._act("resume")

    def retry(self) -> Self:
        """Queue a failed or cancelled job again, under the same id."""
        return self._act("retry")

    def reproduce(self) -> Job:
        """Run a finished job again as a new one: its `result["reproduction"]` says whether it came out the same."""
        return Job(self._calls, finish(self._calls.act(self.id, "reproduce")))

    def update(
        self,
        *,
        priority: int | None = None,
        labels: Mapping[str, str | None] | None = None,
        name: str | None = None,
    ) -> Self:
        """Change priority, name or labels. Labels that are not named stay; None takes one away."""
        return self._now(finish(self._calls.update(self.id, changes(priority, labels, name))))

    def delete(self) -> int:
        """Delete an ended job with its log and files; returns how many bytes that freed."""
        return finish(self._calls.delete(self.id))

    def _act(self, action: str) -> Self:
        return self._now(finish(self._calls.act(self.id, action)))

    def _now(self, json: Json) -> Self:
        self._json = json
        return self

    def _repr_html_(self) -> str:
        """What a notebook shows of it: its state and its curve, as they are now."""
        try:
            self.refresh()
            svg = finish(self._calls.picture(self.id))
        except ClientError:  # what was seen last is better than a traceback
            svg = None
        return notebook.html(self, svg)


MODEL_FILES = ("model.json", "model.safetensors")


def changes(priority: int | None, labels: Mapping[str, str | None] | None, name: str | None) -> Json:
    """The body of an update: what is given, and nothing else."""
    given = {"priority": priority, "labels": dict(labels) if labels is not None else None, "name": name}
    return {field: value for field, value in given.items() if value is not None}
