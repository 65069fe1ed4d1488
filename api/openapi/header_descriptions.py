"""Descriptions of request and response headers for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from api.http.requests import MAX_KEY

Header = dict[str, Any]


def _text(description: str, example: str) -> Header:
    return {"description": description, "schema": {"type": "string"}, "example": example}


REQUEST_HEADERS: dict[str, Header] = {
    "If-None-Match": _text(
        "the ETag of a response that the client has: 304 if it is still current", '"5d41402abc4b2a76b9719d911017c592"'
    ),
    "If-Match": _text(
        "the ETag of the job as it was read: 412 if the job has changed since", '"5d41402abc4b2a76b9719d911017c592"'
    ),
    "Idempotency-Key": {
        "description": "identifies this request: a repeat within 24 h gets the first response, but a prediction is "
        "computed again; no control characters",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
        "example": "0b8f0c8e-2a53-4a41-9d0b-6f3f5d1c7e21",
    },
    "Prefer": _text("`wait=30` does the same as the parameter `wait` (RFC 7240)", "wait=30"),
    "Last-Event-ID": _text("of a stream: the `id` of the last event received; the stream resumes after it", "17"),
    "Range": _text("the bytes to return", "bytes=0-1023"),
}

RESPONSE_HEADERS: dict[str, Header] = {
    "X-Request-Id": _text(
        "the request's X-Request-Id, or a new one; the service's log has it too", "5f0c1d9a4be24d4f9f3c7a6b8e2d1c0a"
    ),
    "Location": _text("path of the new job or dataset", "/v1/jobs/job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70"),
    "ETag": _text("identifies this version of the response", '"5d41402abc4b2a76b9719d911017c592"'),
    "Link": _text(
        "the next page, if there is one", '</v1/jobs?after=job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70>; rel="next"'
    ),
    "Content-Disposition": _text("the file's name", "attachment; filename=model.safetensors"),
    "Accept-Ranges": _text("`bytes`: range requests are supported", "bytes"),
    "Content-Range": _text("the bytes that this response contains", "bytes 0-1023/95604"),
    "Vary": _text("the request header that the response depends on", "Accept"),
    "Idempotent-Replayed": _text("`true`: this is the response to the first request with this Idempotency-Key", "true"),
    "Preference-Applied": _text("the preference of `Prefer` that was applied", "wait=30"),
    "WWW-Authenticate": _text("how to authenticate", 'Bearer realm="gradq"'),
    "Retry-After": {
        "description": "seconds to wait before the next request",
        "schema": {"type": "integer"},
        "example": 2,
    },
}
