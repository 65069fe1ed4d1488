"""Hooks for schemathesis: they limit the size of random jobs and let random calls succeed more often.

Valid jobs are made small. Half of the values that a schema cannot check for existence or consistency (datasets, jobs in
`init_from`, a second device) are replaced by existing ones, and half of the uploads by valid ones. All other errors in
bodies are kept.
"""

from __future__ import annotations

import io
import itertools
import re
import zlib
from typing import Any

import numpy as np
import schemathesis

MAX_SECONDS = 1.0
MAX_KEY = 255
HELD_SECONDS = 0.3  # longer waits test nothing more
NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
PREFERS_TO_WAIT = re.compile(r"\bwait\s*=", re.IGNORECASE)
REQUEST_LINE = 4094  # gunicorn refuses longer ones before they reach the app
_number = itertools.count()
SUBMITS = ("submit_job", "submit_gradient_check", "submit_walk")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    operation = context.operation.definition.raw.get("operationId")
    if operation in SUBMITS and isinstance(body, dict):
        _tame(body)
        _ground(body)
    if operation == "upload_dataset" and isinstance(body, dict) and _every_other(body.get("seed")):
        return {name: value for name, value in body.items() if name in ("seed", "name")} | {"file": _npz()}
    return body


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make idempotency keys unique, since a key shared by two different requests is refused.

    Control characters are removed: clients and servers treat them differently, and a header's schema cannot exclude
    them.
    """
    _hold_briefly(case)
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 0 < len(key) <= MAX_KEY:
        number = f"{next(_number)}-"
        plain = "".join(sign for sign in key if sign.isprintable())
        case.headers["Idempotency-Key"] = f"{number}{plain[: MAX_KEY - len(number) - 1]}."


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    return len(case.as_curl_command()) < REQUEST_LINE or case.method != "GET"


def _hold_briefly(case: Any) -> None:
    query = case.query or {}
    if "until" in query or "wait" in query:
        if NUMBER.fullmatch(str(query.get("wait"))):  # some phases record the drawn values
            query["wait"] = float(query["wait"])
        _cap(query, "wait", HELD_SECONDS, 60)
    if PREFERS_TO_WAIT.search(str((case.headers or {}).get("Prefer"))):
        case.headers["Prefer"] = "wait=1"


def _tame(body: dict[str, Any]) -> None:
    _cap(body, "max_seconds", MAX_SECONDS, 30 * 86_400)
    _cap(body, "samples", 20, 100_000)
    net = body.get("architecture")
    if isinstance(net, dict):
        for widths, most in (("hidden", 16_384), ("channels", 2_048)):
            given = net.get(widths)
            if isinstance(given, list):
                net[widths] = [min(w, 32) if _is_number(w) and 1 <= w <= most else w for w in given]


def _ground(body: dict[str, Any]) -> None:
    if str(body.get("dataset")).startswith("ds_") and _every_other(body["dataset"]):
        body["dataset"] = "digits"
    for name, there in (("init_from", None), ("devices", 1), ("verify", None), ("augment", [])):
        if name in body and _every_other(body[name]):
            body[name] = there


def _every_other(value: Any) -> bool:
    """A random choice that depends on the drawn value only, so that a seed repeats it."""
    return zlib.crc32(repr(value).encode(errors="replace")) % 2 == 0


def _npz() -> bytes:
    file = io.BytesIO()
    images = np.arange(40 * 36, dtype=np.uint8).reshape(40, 6, 6)
    np.savez(file, x=images, y=np.arange(40) % 4)
    return file.getvalue()


def _cap(body: dict[str, Any], name: str, ours: float, theirs: float) -> None:
    """Limit a valid value to `ours`; a missing one becomes `ours`."""
    value = body.get(name, ours)
    if _is_number(value) and 0 < value <= theirs:
        body[name] = min(value, ours)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
