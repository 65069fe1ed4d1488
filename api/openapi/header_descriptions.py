"""The headers that calls take and give, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any

from api.http.requests import MAX_KEY

Header = dict[str, Any]


def _text(description: str, example: str) -> Header:
    return {"description": description, "schema": {"type": "string"}, "example": example}


REQUEST_HEADERS: dict[str, Header] = {
    "If-None-Match": _text(
        "an ETag that is at hand: 304 while it is still the one", '"5d41402abc4b2a76b9719d911017c592"'
    ),
    "If-Match": _text(
        "the ETag of the job as it was read: 412 where it has changed since", '"5d41402abc4b2a76b9719d911017c592"'
    ),
    "Idempotency-Key": {
        "description": "names this request: sent again within 24 h, it gets the first answer; no control characters",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
        "example": "0b8f0c8e-2a53-4a41-9d0b-6f3f5d1c7e21",
    },
    "Prefer": _text("`wait=30` does the same as the parameter `wait` (RFC 7240)", "wait=30"),
    "Last-Event-ID": _text("of a stream: the `id` of the last event that came, which goes on behind it", "17"),
    "Range": _text("the bytes that are wanted", "bytes=0-1023"),
}

RESPONSE_HEADERS: dict[str, Header] = {
    "X-Request-Id": _text("the request's own, or a new one; it stands in the log", "5f0c1d9a4be24d4f9f3c7a6b8e2d1c0a"),
    "Location": _text("where the new thing is", "/v1/jobs/job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70"),
    "ETag": _text("names this version of the answer", '"5d41402abc4b2a76b9719d911017c592"'),
    "Link": _text(
        "the next page, where there is one", '</v1/jobs?after=job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70>; rel="next"'
    ),
    "Content-Disposition": _text("the file's name", "attachment; filename=model.safetensors"),
    "Accept-Ranges": _text("that ranges are served", "bytes"),
    "Content-Range": _text("which bytes these are", "bytes 0-1023/95604"),
    "Vary": _text("the header that the answer depends on", "Accept"),
    "Idempotent-Replayed": _text("`true`: the answer to the first request with this Idempotency-Key", "true"),
    "Preference-Applied": _text("the wish of `Prefer` that was granted", "wait=30"),
    "WWW-Authenticate": _text("how to say who asks", 'Bearer realm="gradq"'),
    "Retry-After": {"description": "seconds until it pays to ask again", "schema": {"type": "integer"}, "example": 2},
}
