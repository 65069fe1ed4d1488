"""Server-sent events as a client reads them, and a client that hangs up when it likes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

ACCEPT = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Sent:
    """One event; `id` is None where it has none, as `end`."""

    id: int | None
    type: str
    data: Any


def sent(lines: Iterable[str]) -> Iterator[Sent]:
    """The events among the lines of a stream, each as soon as it is whole. Comments and `retry` are passed over."""
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
