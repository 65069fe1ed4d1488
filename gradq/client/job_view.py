"""A job as received last: a mapping of its JSON, and typed properties for the fields used most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gradq.client.types import Json


class JobView(Mapping[str, Any]):
    """`job["status"]` reads the service's JSON, `job.status` the same with a type."""

    def __init__(self, json: Json) -> None:
        self._json = json

    def __getitem__(self, field: str) -> Any:
        return self._json[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.get('name', '')!r} {self.get('status', 'not asked yet')}>"

    @property
    def json(self) -> Json:
        """The whole job as the service sent it."""
        return self._json

    @property
    def id(self) -> str:
        """job_…; ids sort by time of creation."""
        return str(self._json["id"])

    @property
    def name(self) -> str:
        """The name given at submission, or the generated one."""
        return str(self._json["name"])

    @property
    def kind(self) -> str:
        """`training`, `gradient_check` or `walk`."""
        return str(self._json["kind"])

    @property
    def status(self) -> str:
        """queued, running, paused, succeeded, failed or cancelled; pausing or cancelling while a running job stops."""
        return str(self._json["status"])

    @property
    def terminal(self) -> bool:
        """Whether it has ended: succeeded, failed or cancelled."""
        return bool(self._json["terminal"])

    @property
    def succeeded(self) -> bool:
        """Whether it has ended with status `succeeded`."""
        return self.status == "succeeded"

    @property
    def status_reason(self) -> Json | None:
        """Why it failed or was cancelled: `code` and `detail`; else None."""
        return self._json["status_reason"]

    @property
    def spec(self) -> Json:
        """The spec with all defaults filled in, the seed included."""
        return dict(self._json["spec"])

    @property
    def progress(self) -> Json | None:
        """epoch, epochs, step, total_steps, percent, examples_per_second, eta_seconds; None before the first step."""
        return self._json["progress"]

    @property
    def result(self) -> Json | None:
        """Losses, accuracies, durations in seconds, hashes; None until it has ended."""
        return self._json["result"]

    @property
    def queue(self) -> Json | None:
        """`position`, from 1, and the `reason` why it waits; None unless it is queued."""
        return self._json["queue"]

    @property
    def attempts(self) -> list[Json]:
        """Its attempts, oldest first: worker, device, times, outcome."""
        return list(self._json["attempts"])

    @property
    def labels(self) -> dict[str, str]:
        """Its labels: key -> value."""
        return dict(self._json["labels"])

    @property
    def priority(self) -> int:
        """0 to 100; higher runs first."""
        return int(self._json["priority"])
