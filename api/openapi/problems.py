"""The problems that routes return, with code, title and an example, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from werkzeug.http import HTTP_STATUS_CODES

from api.http.errors import CODES, RETRY_SECONDS
from shared.errors import UPLOAD_CODES, DatabaseAway, GradqError, UnusableUpload

DESCRIPTIONS = {
    400: "the body cannot be read",
    401: "a token is required, and it is missing or not valid",
    403: "the request is not allowed",
    404: "the job, dataset or file does not exist",
    406: "the Accept header names no media type that this call returns",
    409: "the request conflicts with the current state",
    412: "the job has changed since it was read: its ETag does not match If-Match",
    413: "the body is too large",  # api/openapi/document.py names the limit
    415: "the body's media type is not supported by this call",
    416: "the range is outside of the file",
    422: "the request is not valid; `errors`, if present, names every wrong field",
    429: "a limit is exceeded; `Retry-After` says when to retry",
    503: "temporarily unavailable; `Retry-After` says when to retry",
}
IDEMPOTENCY = {  # of every POST
    409: ("idempotency_in_progress",),
    422: ("invalid_header", "idempotency_key_reused"),
    429: ("too_many_kept_responses",),
}
DEFAULTS = {
    **{status: (code,) for status, code in CODES.items()},
    401: ("token_missing", "token_invalid", "token_expired", "token_revoked"),
    409: ("wrong_state",),
    412: ("precondition_failed",),
    422: ("invalid_query",),
    429: ("rate_limited",),
    503: ("database_away", "too_many_transfers"),
}
# of calls that queue a job
QUEUES = {409: ("owner_storage_full",), 429: ("rate_limited", "too_many_queued_jobs")}
QUEUES_AGAIN = {**QUEUES, 409: ("wrong_state", "owner_storage_full"), 422: ("invalid_query", "invalid_spec")}
STORE = {503: (*DEFAULTS[503], "store_unavailable")}  # of calls that read or write files
DRAWS = {503: (*STORE[503], "disk_full")}  # of calls that may draw a job's pictures
UPLOADS = {
    409: ("owner_storage_full",),
    429: ("rate_limited", "too_many_uploads"),
    **DRAWS,
}
BODY_CODES = {422: ("invalid_query", "invalid_spec")}
SCOPE = ("insufficient_scope",)
OF_CHANGES = ("forbidden", *SCOPE)
FORM_CODES = {413: ("payload_too_large", "unpacks_too_large"), 422: ("invalid_query", "invalid_upload", *UPLOAD_CODES)}

JOB = "job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70"
Members = dict[str, Any]
EXAMPLES: dict[str, Members] = {  # the members beside the title; without an entry the detail is the title
    "bad_request": {"detail": "the body is not JSON: Expecting ',' delimiter: line 1 column 24 (char 23)"},
    "token_missing": {"detail": "send a token: Authorization: Bearer gq_…; `gradq token create` makes one"},
    "rate_limited": {"detail": "more than 50 per 1 second with one token; retry later, or send fewer requests"},
    "too_many_queued_jobs": {
        "detail": "alice has 10000 queued jobs and may have 10000; wait until some have started, or cancel some "
        "(GRADQ_MAX_QUEUED_JOBS)",
        "queued": 10_000,
        "limit": 10_000,
    },
    "owner_storage_full": {
        "detail": "alice stores 20.0 GB (artifacts 14.0 GB, datasets 6.0 GB) and may store 20.0 GB; delete ended jobs "
        "or datasets (GRADQ_MAX_OWNER_BYTES)",
        "used_bytes": 20_000_000_000,
        "limit_bytes": 20_000_000_000,
        "used": {"artifacts": 14_000_000_000, "checkpoints": 0, "datasets": 6_000_000_000, "logs": 0, "audit": 0},
    },
    "too_many_uploads": {
        "detail": "alice has 2 uploads under way and may have 2; wait for the end of one (GRADQ_MAX_OWNER_UPLOADS)",
        "uploads": 2,
        "limit": 2,
    },
    "insufficient_scope": {"detail": "this call requires the scope submit; the token has read", "scope": "submit"},
    "forbidden": {"detail": "cross-site requests must not change anything"},
    "not_found": {"detail": f"job {JOB} not found"},
    "not_acceptable": {"detail": "this call sends JSON"},
    "wrong_state": {
        "detail": "cannot pause a job that is succeeded; allowed now: delete, reproduce",
        "state": "succeeded",
        "allowed": ["delete", "reproduce"],
    },
    "dataset_in_use": {"detail": f"needed by {JOB}; cancel the jobs or wait for their end", "jobs": [JOB]},
    "payload_too_large": {"detail": "the body is larger than 4096 bytes, the limit of this call", "limit_bytes": 4096},
    "unsupported_media_type": {"detail": "send JSON with Content-Type: application/json; got text/plain"},
    "range_not_satisfiable": {"detail": "the requested range cannot be served"},
    "invalid_query": {
        "detail": "1 field is wrong",
        "errors": [
            {"pointer": "/limt", "code": "extra_forbidden", "detail": "unknown parameter; did you mean 'limit'?"}
        ],
    },
    "invalid_spec": {
        "detail": "2 fields are wrong",
        "errors": [
            {"pointer": "/lr", "code": "greater_than", "detail": "must be greater than 0, got -1"},
            {"pointer": "/optimiser", "code": "extra_forbidden", "detail": "unknown field; did you mean 'optimizer'?"},
        ],
    },
    "not_built": {
        "detail": "1 field is wrong",
        "errors": [{"pointer": "", "code": "not_built", "detail": "a torchvision net is not computed here"}],
    },
    "invalid_images": {
        "detail": "no image was sent",
        "errors": [{"pointer": "", "code": "invalid_images", "detail": "no image was sent"}],
    },
    "invalid_upload": {
        "detail": "1 field is wrong",
        "errors": [{"pointer": "/fiel", "code": "extra_forbidden", "detail": "unknown part; did you mean 'file'?"}],
    },
    "database_away": {"detail": f"{DatabaseAway.title}; retry in {RETRY_SECONDS} s"},
}


def codes_of(status: int, takes_json: bool, takes_form: bool) -> tuple[str, ...]:
    """The codes of a route's problems with this status, unless its contract names others."""
    special = FORM_CODES if takes_form else BODY_CODES if takes_json else {}
    return special.get(status) or DEFAULTS[status]


def example(status: int, code: str) -> Members:
    """An example of a problem: all its members by name."""
    title = TITLES.get(code) or HTTP_STATUS_CODES[status]
    return {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": title,
        "status": status,
        "code": code,
        "instance": "/v1/jobs",
        "request_id": "5f0c1d9a4be24d4f9f3c7a6b8e2d1c0a",
        **{"detail": title, **EXAMPLES.get(code, {})},
    }


def _titles(kind: type[GradqError]) -> dict[str, str]:
    titles = {kind.code: kind.title}
    for narrower in kind.__subclasses__():
        titles |= _titles(narrower)
    return titles


TITLES = _titles(GradqError) | dict.fromkeys(UPLOAD_CODES, UnusableUpload.title)
