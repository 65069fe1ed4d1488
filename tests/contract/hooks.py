"""What keeps the machine alive while jobs are made at random, and lets the random calls get somewhere.

Loaded by schemathesis's command. Jobs that are right are made small. Of what a schema cannot know to be there or to go
together (datasets, jobs to begin with, a second device) every other one gives way to what is there, and so does every
other upload to a true one. Everything else that is wrong with a body stays wrong.
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
HELD_SECONDS = 0.3  # a request that is held longer says nothing more
NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
PREFERS_TO_WAIT = re.compile(r"\bwait\s*=", re.IGNORECASE)
REQUEST_LINE = 4094  # gunicorn answers longer ones itself, before the service hears of them
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
    """A key that two different requests share is refused, as it should be: each request gets one of its own.

    Control characters go: what becomes of them differs by client and server, and no schema of a header says it.
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
        if NUMBER.fullmatch(str(query.get("wait"))):  # some phases write what they drew
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
    """A toss that depends on the drawn value alone, so that a seed repeats it."""
    return zlib.crc32(repr(value).encode(errors="replace")) % 2 == 0


def _npz() -> bytes:
    file = io.BytesIO()
    images = np.arange(40 * 36, dtype=np.uint8).reshape(40, 6, 6)
    np.savez(file, x=images, y=np.arange(40) % 4)
    return file.getvalue()


def _cap(body: dict[str, Any], name: str, ours: float, theirs: float) -> None:
    """A value that the service would take becomes at most `ours`; one that is not said becomes that."""
    value = body.get(name, ours)
    if _is_number(value) and 0 < value <= theirs:
        body[name] = min(value, ours)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
