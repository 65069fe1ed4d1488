"""A job as the service showed it last: a mapping of its JSON, and the parts that people ask for by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gradq.client.types import Json


class JobView(Mapping[str, Any]):
    """`job["status"]` is the JSON of the service, `job.status` the same with a type."""

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
        """The whole of what the service said."""
        return self._json

    @property
    def id(self) -> str:
        """job_… , sortable by time."""
        return str(self._json["id"])

    @property
    def name(self) -> str:
        """The name that was given, or made up."""
        return str(self._json["name"])

    @property
    def kind(self) -> str:
        """training, gradient_check or walk."""
        return str(self._json["kind"])

    @property
    def status(self) -> str:
        """queued, running, paused, succeeded, failed, cancelled; cancelling and pausing while the wish stands."""
        return str(self._json["status"])

    @property
    def terminal(self) -> bool:
        """Whether it has ended: succeeded, failed or cancelled."""
        return bool(self._json["terminal"])

    @property
    def succeeded(self) -> bool:
        """Whether it ended as it should."""
        return self.status == "succeeded"

    @property
    def status_reason(self) -> Json | None:
        """Why it failed or was cancelled: `code` and `detail`."""
        return self._json["status_reason"]

    @property
    def spec(self) -> Json:
        """What is trained, each default filled in, the seed included."""
        return dict(self._json["spec"])

    @property
    def progress(self) -> Json | None:
        """epoch, epochs, step, total_steps, percent, examples_per_second, eta_seconds; None before the first step."""
        return self._json["progress"]

    @property
    def result(self) -> Json | None:
        """Losses, accuracies, seconds, hashes; None until it has ended."""
        return self._json["result"]

    @property
    def queue(self) -> Json | None:
        """Its position and the reason why it waits; None once it runs."""
        return self._json["queue"]

    @property
    def attempts(self) -> list[Json]:
        """Each try: worker, device, times, outcome."""
        return list(self._json["attempts"])

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self._json["labels"])

    @property
    def priority(self) -> int:
        """0 to 100; higher goes first."""
        return int(self._json["priority"])
