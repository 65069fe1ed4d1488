"""Server-sent events as a client reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

ACCEPT = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Sent:
    """One event; `id` is None for events without one, such as `end`."""

    id: int | None
    type: str
    data: Any


def sent(lines: Iterable[str]) -> Iterator[Sent]:
    """The events in the lines of a stream, each as soon as it is complete. Comments and `retry` are skipped."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            if "data" in fields:
                id = int(fields["id"]) if "id" in fields else None
                yield Sent(id, fields["event"], json.loads(fields["data"]))
            fields = {}
