"""A handle to one job, blocking: refresh, follow, change, download."""

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
    """A job of one service, with the JSON that was received last; methods that send a request update it.

    Each method raises NotFound if the job does not exist, and Unreachable if the service does not answer.
    """

    def __init__(self, calls: Calls, json: Json) -> None:
        super().__init__(json)
        self._calls = calls

    def refresh(self, wait: float = 0.0) -> Self:
        """Fetch the job again and return this handle.

        With `wait`, returns once the job differs from what was received last, or after that many seconds.
        """
        if wait > 0:
            return self._now(finish(waiting.until_changed(self._calls, self.id, self.json, wait)))
        return self._now(finish(self._calls.job(self.id)))

    def wait(self, timeout: float | None = None, poll: float | None = None, check: bool = False) -> Self:
        """Return this handle once the job has ended; a paused job has not.

        Raises WaitTimeout, a TimeoutError, after `timeout` seconds; the job continues. With `check`, raises JobFailed
        if the job failed or was cancelled. Uses long polling, so it returns at once when the job ends; with `poll` it
        asks every `poll` seconds instead. A service that is away (no answer, 502, 503, 504) is retried for a minute; a
        WaitTimeout meanwhile has that error as its `__cause__`.
        """
        away = None
        for look in iterate(waiting.until_terminal(self._calls, dict(self._json), timeout, poll)):
            self._now(look.job)
            away = look.away
        if not self.terminal:
            raise WaitTimeout(self, timeout or 0.0) from away
        if check and not self.succeeded:
            raise JobFailed(self)
        return self

    def watch(self, after: int = 0, type: EventType | None = None) -> Iterator[Event]:
        """Yield the lines of the job's log as they come, each once and in order, until the job has ended.

        Reconnects after broken connections. `after`: only lines whose `seq` is larger. `type`: only lines of this type.
        """
        yield from iterate(events.follow(self._calls, self.id, after, type))
        self._now(finish(self._calls.job(self.id, waiting.PATIENCE_SECONDS)))

    def events(self, after: int = 0, type: EventType | None = None) -> list[Event]:
        """Return the lines that the log has now, with a `seq` larger than `after`."""
        return finish(events.page(self._calls, self.id, after, type))

    def metrics(self, *keys: str, max_points: int = WHOLE) -> dict[str, Points]:
        """Return name -> [[step, epoch, value], …] in the order of steps, of all metrics or of those in `keys`.

        A value that was not finite is None. A metric with more than `max_points` points is downsampled; its minima and
        maxima are kept.
        """
        return finish(self._calls.metrics(self.id, keys, max_points))

    def curve(self, *keys: str) -> Any:
        """Return the metrics as a table with one row per step: a pandas DataFrame with the index `step`.

        Without pandas, a dict of lists of equal length: `step`, and each metric with None where it has no point.
        """
        return curve.frame(self.metrics(*keys))

    def artifacts(self) -> list[Json]:
        """Return the job's files: name, kind, media_type, size_bytes, sha256, created_at."""
        return finish(self._calls.artifacts(self.id))

    def download(self, folder: str | Path, names: str | Sequence[str] | None = None) -> list[Path]:
        """Download all files, or those in `names`, to `folder`, and return their paths.

        A file appears only if it is complete and its sha256 is right. A broken download resumes where it stopped.
        Raises NotFound for a name that the job does not have, BadAnswer for a wrong sha256, OSError.
        """
        return finish(downloads.files(self._calls, self.id, Path(folder), names))

    def download_zip(self, path: str | Path) -> Path:
        """Download all files as one zip, check each sha256, and return `path`. Raises BadAnswer, OSError."""
        return finish(downloads.zipped(self._calls, self.id, Path(path)))

    def model(self) -> nn.Module:
        """Return the trained model as a torch module, on the CPU and in evaluation mode.

        It takes normalized images and returns logits: `net(net.normalize(images))`, with images (N,C,H,W) in [0, 1].
        Raises NotFound if the job has no model, ImportError without torch or safetensors.
        """
        from gradq.client import rebuild

        with TemporaryDirectory() as folder:
            self.download(folder, MODEL_FILES)
            return rebuild.load(folder)

    def predict(self, images_: Any, /, *, invert: bool = False, white: float | None = None) -> Predictions:
        """Return `label`, `class` and `probabilities` of each image, as the finished model predicts them.

        Images are one or a list of paths or Pillow images of any size; or an array or nested lists of the model's size,
        (N,H,W) or (N,C,H,W), from 0 to `white`; without it each image is read for itself: in [0, 1] if no number
        exceeds 1, else from 0 to the dataset's white. `invert`: the images are black on white and the model was trained
        on white on black. Raises InvalidImages, WrongState, OSError; TypeError for files mixed with arrays.
        """
        return Predictions(finish(self._calls.predict(self.id, images.body_of(images_, white), invert)))

    def cancel(self) -> Self:
        """Cancel the job; a running one ends once its checkpoint is written. Raises WrongState if it has ended."""
        return self._act("cancel")

    def pause(self) -> Self:
        """Write a checkpoint, free the slot, and wait for `resume`. Raises WrongState unless the job runs."""
        return self._act("pause")

    def resume(self) -> Self:
        """Queue a paused job again; it resumes from its checkpoint. Raises WrongState."""
        return self._act("resume")

    def retry(self) -> Self:
        """Queue a failed or cancelled job again, under the same id. Raises WrongState."""
        return self._act("retry")

    def reproduce(self) -> Job:
        """Queue a finished job again as a new job and return that; its `result["reproduction"]` compares the two.

        Raises WrongState unless the job succeeded.
        """
        return Job(self._calls, finish(self._calls.act(self.id, "reproduce")))

    def update(
        self,
        *,
        priority: int | None = None,
        labels: Mapping[str, str | None] | None = None,
        name: str | None = None,
    ) -> Self:
        """Change priority (0 to 100), name or labels, and return this handle.

        Labels that are not named are unchanged; a value of None removes one. Raises InvalidRequest.
        """
        return self._now(finish(self._calls.update(self.id, changes(priority, labels, name))))

    def delete(self) -> int:
        """Delete an ended job with its log and files, and return the number of bytes freed. Raises WrongState."""
        return finish(self._calls.delete(self.id))

    def _act(self, action: str) -> Self:
        return self._now(finish(self._calls.act(self.id, action)))

    def _now(self, json: Json) -> Self:
        self._json = json
        return self

    def _repr_html_(self) -> str:
        """What a notebook shows: the job's state and curve, fetched again."""
        try:
            self.refresh()
            svg = finish(self._calls.picture(self.id))
        except ClientError:  # then the state that was received last, not a traceback
            svg = None
        return notebook.html(self, svg)


MODEL_FILES = ("model.json", "model.safetensors")


def changes(priority: int | None, labels: Mapping[str, str | None] | None, name: str | None) -> Json:
    """The body of an update: the arguments that are not None."""
    given = {"priority": priority, "labels": dict(labels) if labels is not None else None, "name": name}
    return {field: value for field, value in given.items() if value is not None}
