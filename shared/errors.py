"""The exception tree. Each class carries `code` and `status`; api/http/errors.py renders them all.

GradqError
├── BadRequest 400          the request or its body cannot be parsed
├── Unauthenticated 401     TokenMissing  TokenInvalid  TokenExpired  TokenRevoked
├── Forbidden 403
│   └── InsufficientScope   the token's scope does not allow this; names the scope that does
├── NotFound 404
│   └── NoArtifacts 404
├── WrongState 409          names the job's state and the actions allowed in it
├── DatasetInUse 409
├── OwnerStorageFull 409    the owner stores as much as GRADQ_MAX_OWNER_BYTES allows
├── IdempotencyInProgress 409   a request with the same key is still being processed
├── PreconditionFailed 412  the job has changed since the version that If-Match names
├── PayloadTooLarge 413
├── UnknownHost 421         the Host header has a name that is not in GRADQ_ALLOWED_HOSTS
├── IdempotencyKeyReused 422
├── InvalidSpec 422         names every wrong field
│   ├── InvalidQuery 422    the same for the query string
│   ├── InvalidHeader 422   the same for headers
│   ├── InvalidBody 422     the same for bodies other than job specs
│   └── InvalidUpload 422   the same for the fields of an upload
├── UnusableUpload 422      the upload cannot be converted to a dataset; `code` is the reason
├── RateLimited 429         one token or address sends too many requests
├── TooManyQueuedJobs 429   the owner has reached GRADQ_MAX_QUEUED_JOBS
├── TooManyUploads 429      the owner has reached GRADQ_MAX_OWNER_UPLOADS
├── TooManyKeptResponses 429  the responses stored for the owner's Idempotency-Keys take too many bytes
├── DatabaseAway 503
│   └── SchemaMismatch 503  the database's schema is of another version of gradq
├── StoreUnavailable 503    the artifact store is away, full, or refuses
├── DiskFull 503            the API has no room for an upload
├── TooManyStreams 503      GRADQ_HELD_REQUESTS requests are already held open
├── TooManyTransfers 503    GRADQ_TRANSFERS requests already wait for data from or to their clients
├── TooManyPredictions 503  the process already computes as many predictions as it may at once
├── ConfigurationError      a setting is wrong; the process does not start
├── LeaseLost               another attempt owns the job; this one must stop writing
└── TrainingError           ends the job; `code` becomes that of its status_reason
    ├── DataError  Diverged  GradientCheckFailed
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# limits of what one error repeats of a request, so that no response grows with what was sent
MOST_ERRORS = 100  # wrong fields that are named; the others are counted
MAX_POINTER, MAX_FIELD_DETAIL, MAX_DETAIL = 300, 500, 2000  # characters


def cut(text: str, most: int) -> str:
    """`text`, or its first characters with an ellipsis if it has more than `most`."""
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class FieldError:
    """One wrong field: `pointer` is a JSON pointer (RFC 6901) into the request."""

    pointer: str
    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        return {**asdict(self), "pointer": cut(self.pointer, MAX_POINTER), "detail": cut(self.detail, MAX_FIELD_DETAIL)}


class GradqError(Exception):
    code = "internal_error"
    status = 500
    title = "Internal error"
    retry_after_seconds: int | None = None  # value of the header Retry-After

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.extra = extra


class BadRequest(GradqError):
    code, status, title = "bad_request", 400, "Malformed request"


class Unauthenticated(GradqError):
    status, title = 401, "Authentication required"


class TokenMissing(Unauthenticated):
    code = "token_missing"


class TokenInvalid(Unauthenticated):
    code, title = "token_invalid", "Invalid token"


class TokenExpired(Unauthenticated):
    code, title = "token_expired", "Token expired"


class TokenRevoked(Unauthenticated):
    code, title = "token_revoked", "Token revoked"


class NotFound(GradqError):
    code, status, title = "not_found", 404, "Not found"


class NoArtifacts(NotFound):
    code, title = "no_artifacts", "The job has no files"


class Forbidden(GradqError):
    code, status, title = "forbidden", 403, "Forbidden"


class InsufficientScope(Forbidden):
    code, title = "insufficient_scope", "The token's scope does not allow this"


class WrongState(GradqError):
    code, status, title = "wrong_state", 409, "The job's state does not allow this"


class DatasetInUse(GradqError):
    code, status, title = "dataset_in_use", 409, "The dataset is in use"


class OwnerStorageFull(GradqError):
    code, status, title = "owner_storage_full", 409, "The owner may store no more"


class IdempotencyInProgress(GradqError):
    code, status, title = "idempotency_in_progress", 409, "A request with this Idempotency-Key is being processed"
    retry_after_seconds = 1


class PreconditionFailed(GradqError):
    code, status, title = "precondition_failed", 412, "The resource has changed since it was read"


class PayloadTooLarge(GradqError):
    code, status, title = "payload_too_large", 413, "The body is too large"


class UnknownHost(GradqError):
    code, status, title = "unknown_host", 421, "Unknown host name"


class IdempotencyKeyReused(GradqError):
    code, status, title = "idempotency_key_reused", 422, "This Idempotency-Key was used for a different request"


class InvalidSpec(GradqError):
    code, status, title = "invalid_spec", 422, "The job spec is not valid"

    def __init__(self, errors: list[FieldError], more: int = 0) -> None:
        """`more`: number of further wrong fields, which `errors` does not have."""
        count = len(errors) + more
        self.errors, self.more = errors[:MOST_ERRORS], max(0, count - MOST_ERRORS, more)
        super().__init__("1 field is wrong" if count == 1 else f"{count} fields are wrong")


class InvalidQuery(InvalidSpec):
    code, title = "invalid_query", "The query string is not valid"


class InvalidHeader(InvalidSpec):
    code, title = "invalid_header", "A header is not valid"


class InvalidBody(InvalidSpec):
    code, title = "invalid_body", "The body is not valid"


class InvalidUpload(InvalidSpec):
    code, title = "invalid_upload", "A part or field of the upload is not valid"


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
    """Each reason has its own `code`, listed in docs/datasets.md. `detail` names the file and what to do next."""

    status, title = 422, "The upload cannot be converted to a dataset"

    def __init__(self, code: str, detail: str, **extra: Any) -> None:
        assert code in (*UPLOAD_CODES, "unpacks_too_large"), "the OpenAPI document lists them"
        super().__init__(detail, **extra)
        self.code = code
        if code == "unpacks_too_large":
            self.status = 413


class RateLimited(GradqError):
    code, status, title = "rate_limited", 429, "Rate limit exceeded"

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class TooManyQueuedJobs(GradqError):
    code, status, title = "too_many_queued_jobs", 429, "Too many queued jobs"
    retry_after_seconds = 10


class TooManyUploads(GradqError):
    code, status, title = "too_many_uploads", 429, "Too many uploads at once"
    retry_after_seconds = 5


class TooManyKeptResponses(GradqError):
    code, status, title = "too_many_kept_responses", 429, "Too many stored responses"
    retry_after_seconds = 3600


class DatabaseAway(GradqError):
    code, status, title = "database_away", 503, "The database is not available"


class SchemaMismatch(DatabaseAway):
    """`detail` names the revisions and the next step. Clients retry it, as they retry a database that is away."""

    title = "The database has the schema of another version"


class StoreUnavailable(GradqError):
    """`detail` has the library's message, which may name hosts and keys: it is for the log, not for clients."""

    code, status, title = "store_unavailable", 503, "The artifact store is not available"
    retry_after_seconds = 10


class DiskFull(GradqError):
    code, status, title = "disk_full", 503, "The API's disk is full"
    retry_after_seconds = 10


class TooManyStreams(GradqError):
    code, status, title = "too_many_streams", 503, "Too many open streams"
    retry_after_seconds = 2


class TooManyTransfers(GradqError):
    code, status, title = "too_many_transfers", 503, "Too many uploads and downloads at a time"
    retry_after_seconds = 2


class TooManyPredictions(GradqError):
    code, status, title = "too_many_predictions", 503, "Too many predictions at the same time"
    retry_after_seconds = 2


class ConfigurationError(GradqError):
    code, title = "configuration_error", "A setting is wrong"


class LeaseLost(GradqError):
    code, title = "lease_lost", "Another attempt owns the job"


class TrainingError(GradqError):
    """Ends the job as `failed`; `data` is stored in the event log with the message."""

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
