"""Every problem that a route may answer with: its code, title and an example. For the OpenAPI document."""

from __future__ import annotations

from typing import Any

from werkzeug.http import HTTP_STATUS_CODES

from api.http.errors import CODES
from shared.errors import UPLOAD_CODES, GradqError, UnusableUpload

DESCRIPTIONS = {
    400: "the body cannot be read",
    401: "a token is asked for here, and none or no good one came",
    403: "this may not be done",
    404: "there is no such job, dataset or file",
    406: "the Accept header asks for a form that this call does not send",
    409: "what is asked for does not go with the state that things are in",
    412: "it has changed since: the ETag of If-Match is not its ETag any more",
    413: "the body is too large",
    415: "the body is not sent in a form that this call takes",
    416: "the range lies outside of the file",
    422: "what was sent is not valid; `errors`, where it stands, names every wrong field",
    429: "too many at once; `Retry-After` says when to ask again",
    503: "not now; `Retry-After` says when to ask again",
}
IDEMPOTENCY = {409: ("idempotency_in_progress",), 422: ("invalid_header", "idempotency_key_reused")}  # of every POST
DEFAULTS = {
    **{status: (code,) for status, code in CODES.items()},
    401: ("token_missing", "token_invalid", "token_expired", "token_revoked"),
    409: ("wrong_state",),
    412: ("precondition_failed",),
    422: ("invalid_query",),
    429: ("rate_limited",),
    503: ("database_away",),
}
QUEUES = {429: ("rate_limited", "too_many_queued_jobs")}  # of calls that queue a job
BODY_CODES = {422: ("invalid_query", "invalid_spec")}
SCOPE = ("insufficient_scope",)
OF_CHANGES = ("forbidden", *SCOPE)
FORM_CODES = {413: ("payload_too_large", "unpacks_too_large"), 422: ("invalid_query", "invalid_upload", *UPLOAD_CODES)}

JOB = "job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70"
Members = dict[str, Any]
EXAMPLES: dict[str, Members] = {  # what is not said by the title alone
    "bad_request": {"detail": "the body is not JSON: Expecting ',' delimiter: line 1 column 24 (char 23)"},
    "token_missing": {"detail": "send a token: Authorization: Bearer gq_…; `gradq token create` makes one"},
    "rate_limited": {"detail": "more than 50 per 1 second by one token; ask again later, or less often"},
    "too_many_queued_jobs": {
        "detail": "alice has 10000 queued jobs and may have 10000; wait until some have started, or cancel some "
        "(GRADQ_MAX_QUEUED_JOBS)",
        "queued": 10_000,
        "limit": 10_000,
    },
    "insufficient_scope": {"detail": "this token may read, and this takes the scope submit", "scope": "submit"},
    "forbidden": {"detail": "a page of another site must not change anything here"},
    "not_found": {"detail": f"there is no job {JOB}"},
    "not_acceptable": {"detail": "this call sends JSON"},
    "wrong_state": {
        "detail": "cannot pause a job that is succeeded; allowed now: delete, reproduce",
        "state": "succeeded",
        "allowed": ["delete", "reproduce"],
    },
    "dataset_in_use": {"detail": f"needed by {JOB}; cancel the jobs or wait for their end", "jobs": [JOB]},
    "payload_too_large": {"detail": "the data value transmitted exceeds the capacity limit"},
    "unsupported_media_type": {"detail": "send JSON, with Content-Type: application/json; got text/plain"},
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
        "detail": "there is no image",
        "errors": [{"pointer": "", "code": "invalid_images", "detail": "there is no image"}],
    },
    "invalid_upload": {
        "detail": "1 field is wrong",
        "errors": [{"pointer": "/fiel", "code": "extra_forbidden", "detail": "unknown part; did you mean 'file'?"}],
    },
    "database_away": {"detail": "The database does not answer; ask again in 2 s"},
}


def codes_of(status: int, takes_json: bool, takes_form: bool) -> tuple[str, ...]:
    """The codes that a route's refusal of this status has, unless the route says otherwise."""
    special = FORM_CODES if takes_form else BODY_CODES if takes_json else {}
    return special.get(status) or DEFAULTS[status]


def example(status: int, code: str) -> Members:
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
