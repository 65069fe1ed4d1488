"""Rendering of values: times, lists, JSON without NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Flask
from flask.json.provider import DefaultJSONProvider


class JSON(DefaultJSONProvider):
    """Keeps the order of keys; NaN and infinities, which JSON does not have, become null."""

    sort_keys = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        try:
            return super().dumps(obj, allow_nan=False, **kwargs)
        except ValueError:  # rare: a loss that diverged
            return super().dumps(finite(obj), allow_nan=False, **kwargs)

    def compact_text(self, obj: Any) -> str:
        """JSON on one line without spaces, as `jsonify` sends it."""
        return self.dumps(obj, separators=(",", ":"))


def json_of(app: Flask) -> JSON:
    assert isinstance(app.json, JSON), "create_app sets it"
    return app.json


def finite(value: Any) -> Any:
    """The same value with None in place of each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC, with milliseconds: 2026-11-23T12:00:00.123Z"""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timestamp_or_none(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)


def whole_list(data: Sequence[Any]) -> dict[str, Any]:
    """The list object for a list that has a single page."""
    return {"object": "list", "data": list(data), "has_more": False}


def seconds_until(moment: float) -> int:
    """Whole seconds until `moment`, a time.time(), at least 1: for a Retry-After header."""
    return max(1, math.ceil(moment - time.time()))
