"""The exception tree. Each class carries `code` and `status`; api/http/errors.py renders them all.

GradqError
├── BadRequest 400          the body is not JSON
├── Unauthenticated 401     TokenMissing  TokenInvalid  TokenExpired  TokenRevoked
├── Forbidden 403
│   └── InsufficientScope   the token does not allow this; names the scope that would
├── NotFound 404
│   └── NoArtifacts 404
├── WrongState 409          names the state and what is allowed in it
├── DatasetInUse 409
├── IdempotencyInProgress 409   a request with the same key is still under way
├── PreconditionFailed 412  the job is no longer what If-Match names
├── PayloadTooLarge 413
├── RateLimited 429         one caller asks too often
├── TooManyQueuedJobs 429   one owner has as many as may wait
├── UnknownHost 421         asked under a name that is not this service's
├── IdempotencyKeyReused 422
├── InvalidSpec 422         every wrong field at once
│   ├── InvalidQuery 422    the same for the query string
│   ├── InvalidHeader 422   the same for headers
│   ├── InvalidBody 422     the same for bodies that are no spec
│   └── InvalidUpload 422   the same for the fields of an upload
├── UnusableUpload 422      what was uploaded is no dataset; `code` says why
├── DatabaseAway 503
├── TooManyStreams 503       as many requests as may be are held open
├── ConfigurationError      a setting is wrong: the process does not start
├── LeaseLost               another attempt owns the job now: write nothing more
└── TrainingError           ends a job; `code` becomes its status_reason
    ├── DataError  Diverged  GradientCheckFailed
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FieldError:
    """One wrong field: `pointer` is a JSON pointer (RFC 6901) into the request."""

    pointer: str
    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class GradqError(Exception):
    code = "internal_error"
    status = 500
    title = "Something went wrong inside gradq"
    retry_after_seconds: int | None = None  # when it is worth to ask again

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.extra = extra


class BadRequest(GradqError):
    code, status, title = "bad_request", 400, "The request could not be read"


class Unauthenticated(GradqError):
    status, title = 401, "A token is asked for here"


class TokenMissing(Unauthenticated):
    code = "token_missing"


class TokenInvalid(Unauthenticated):
    code, title = "token_invalid", "There is no such token"


class TokenExpired(Unauthenticated):
    code, title = "token_expired", "The token's time is over"


class TokenRevoked(Unauthenticated):
    code, title = "token_revoked", "The token has been revoked"


class NotFound(GradqError):
    code, status, title = "not_found", 404, "There is nothing here"


class NoArtifacts(NotFound):
    code, title = "no_artifacts", "The job has no files"


class Forbidden(GradqError):
    code, status, title = "forbidden", 403, "This may not be done"


class InsufficientScope(Forbidden):
    code, title = "insufficient_scope", "The token does not allow this"


class WrongState(GradqError):
    code, status, title = "wrong_state", 409, "The job's state does not allow this"


class DatasetInUse(GradqError):
    code, status, title = "dataset_in_use", 409, "A job needs this dataset"


class IdempotencyInProgress(GradqError):
    code, status, title = "idempotency_in_progress", 409, "A request with this Idempotency-Key is under way"
    retry_after_seconds = 1


class PreconditionFailed(GradqError):
    code, status, title = "precondition_failed", 412, "It has changed since it was read"


class PayloadTooLarge(GradqError):
    code, status, title = "payload_too_large", 413, "The body is too large"


class UnknownHost(GradqError):
    code, status, title = "unknown_host", 421, "This service goes by another name"


class IdempotencyKeyReused(GradqError):
    code, status, title = "idempotency_key_reused", 422, "This Idempotency-Key stands for another request"


class InvalidSpec(GradqError):
    code, status, title = "invalid_spec", 422, "The job spec is not valid"

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors
        super().__init__("1 field is wrong" if len(errors) == 1 else f"{len(errors)} fields are wrong")


class InvalidQuery(InvalidSpec):
    code, title = "invalid_query", "The query string is not valid"


class InvalidHeader(InvalidSpec):
    code, title = "invalid_header", "A header is not valid"


class InvalidBody(InvalidSpec):
    code, title = "invalid_body", "The body is not valid"


class InvalidUpload(InvalidSpec):
    code, title = "invalid_upload", "The parts or fields of the upload are not valid"


UPLOAD_CODES = (
    "unknown_format",
    "unreadable_file",
    "object_array",
    "bad_shape",
    "bad_pixels",
    "not_finite",
    "length_mismatch",
    "bad_labels",
    "empty_class",
    "too_few_classes",
    "too_many_classes",
    "too_few_examples",
    "too_many_examples",
    "unsafe_path",
    "unreadable_image",
    "size_mismatch",
    "image_too_large",
)  # and unpacks_too_large, which is a 413


class UnusableUpload(GradqError):
    """Each reason has a `code` of its own: see docs/datasets.md. `detail` names the file and the next step."""

    status, title = 422, "This upload cannot become a dataset"

    def __init__(self, code: str, detail: str, **extra: Any) -> None:
        assert code in (*UPLOAD_CODES, "unpacks_too_large"), "the OpenAPI document lists them"
        super().__init__(detail, **extra)
        self.code = code
        if code == "unpacks_too_large":
            self.status = 413


class RateLimited(GradqError):
    code, status, title = "rate_limited", 429, "One caller asks too often"

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class TooManyQueuedJobs(GradqError):
    code, status, title = "too_many_queued_jobs", 429, "As many jobs wait as one owner may have"
    retry_after_seconds = 10


class DatabaseAway(GradqError):
    code, status, title = "database_away", 503, "The database does not answer"


class TooManyStreams(GradqError):
    code, status, title = "too_many_streams", 503, "Too many requests are held open"
    retry_after_seconds = 2


class ConfigurationError(GradqError):
    code, title = "configuration_error", "A setting is wrong"


class LeaseLost(GradqError):
    code, title = "lease_lost", "Another attempt owns this job now"


class TrainingError(GradqError):
    """Ends the job as `failed`; `data` goes into the event log beside the message."""

    title = "The training failed"

    def __init__(self, detail: str, **data: Any) -> None:
        super().__init__(detail)
        self.data = data


class DataError(TrainingError):
    code = "data_error"


class Diverged(TrainingError):
    code = "diverged"


class GradientCheckFailed(TrainingError):
    code = "gradient_check_failed"
