"""What the client raises. One tree; the service's error codes have classes of their own.

ClientError
├── Unreachable             nobody answers, or the connection breaks each time
├── ApiError                the service said no: status, code, detail, errors, request_id
│   ├── BadRequest 400      Unauthorized 401   NotFound 404   NotAcceptable 406   TooLarge 413
│   ├── Forbidden 403
│   │   └── InsufficientScope    the token does not allow this; names the scope that would
│   ├── Conflict 409
│   │   ├── WrongState      the job's state does not allow this; names the state and what is allowed
│   │   ├── DatasetInUse
│   │   └── RequestInProgress    the same Idempotency-Key is still at work
│   ├── InvalidRequest 422
│   │   ├── InvalidSpec  InvalidQuery  InvalidUpload  InvalidImages  NotBuilt
│   │   └── KeyReused       this Idempotency-Key stood for another request
│   ├── RateLimited 429     ServiceUnavailable 503   ServerError 5xx
│   └── BadAnswer           what came is not what gradq sends
├── WaitTimeout             also a TimeoutError: the job goes on, the waiting is over
└── JobFailed               `wait(check=True)`: the job did not succeed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradq.client.job_view import JobView


class ClientError(Exception):
    """Whatever gradq's client raises by itself. `tries`: how often the request was sent."""

    tries = 1


class Unreachable(ClientError):
    """Nobody answered at `url`. `refused`: there is nobody at all, so nothing was sent."""

    def __init__(self, url: str, reason: str, refused: bool = True) -> None:
        super().__init__(f"cannot reach {url}: {reason}")
        self.url = url
        self.reason = reason
        self.refused = refused


class ApiError(ClientError):
    """The service said no.

    `status` and `code` are for programs, `detail` is for people. `errors` names each wrong field as a JSON pointer.
    `problem` holds the whole answer, `retry_after` the seconds after which the service wants to be asked again.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, str]] | None = None,
        *,
        problem: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = [dict(error) for error in errors or []]
        self.problem = dict(problem or {})
        self.retry_after = retry_after
        fields = "; ".join(f"{wrong.get('pointer') or 'body'}: {wrong.get('detail', '')}" for wrong in self.errors)
        super().__init__(f"{detail}: {fields}" if fields else detail)

    @property
    def request_id(self) -> str | None:
        """By which the service's log knows this request."""
        found = self.problem.get("request_id")
        return None if found is None else str(found)

    def names(self, pointer: str) -> bool:
        """Whether `pointer` is one of the wrong fields."""
        return any(wrong.get("pointer") == pointer for wrong in self.errors)


class BadRequest(ApiError):
    """400: the body could not be read."""


class Unauthorized(ApiError):
    """401: a token is asked for, and none or no good one was sent; `code` says which.

    Set GRADQ_TOKEN, or `Client(token=…)`, to a token of this service; `gradq token create` on its machine makes one.
    """


class Forbidden(ApiError):
    """403: the token does not allow this, or nobody may do it."""


class InsufficientScope(Forbidden):
    """403: the token is good, and does not allow this."""

    @property
    def scope(self) -> str:
        """The scope that it takes: `gradq token create NAME --scope …` makes a token that has it."""
        return str(self.problem.get("scope", ""))


class NotFound(ApiError):
    """404: there is no such job, file or dataset."""


class NotAcceptable(ApiError):
    """406: the service does not answer in this form."""


class Conflict(ApiError):
    """409: not now."""


class WrongState(Conflict):
    """409: the job's state does not allow this."""

    @property
    def state(self) -> str:
        """The status that the job had."""
        return str(self.problem.get("state", ""))

    @property
    def allowed(self) -> list[str]:
        """What may be done in it."""
        return [str(action) for action in self.problem.get("allowed") or []]


class DatasetInUse(Conflict):
    """409: a job that has not ended needs this dataset."""


class RequestInProgress(Conflict):
    """409: a request with this Idempotency-Key is still under way."""


class TooLarge(ApiError):
    """413: more bytes than the service takes."""


class InvalidRequest(ApiError):
    """422: `errors` says which fields are wrong, and why."""


class InvalidSpec(InvalidRequest):
    """422: the job spec is not valid; all wrong fields are named at once."""


class InvalidQuery(InvalidRequest):
    """422: a parameter is not valid."""


class InvalidUpload(InvalidRequest):
    """422: the parts or fields of the upload are not valid."""


class InvalidImages(InvalidRequest):
    """422: what was sent to be looked at is no image, or none that the model takes."""


class NotBuilt(InvalidRequest):
    """422: the service does not do this."""


class KeyReused(InvalidRequest):
    """422: the Idempotency-Key stood for another request already. Take a new key for a new request."""


class RateLimited(ApiError):
    """429: too many requests; `retry_after` says when to come back."""


class ServiceUnavailable(ApiError):
    """503: the service is up but not whole, or full; `retry_after` says when to come back."""


class ServerError(ApiError):
    """5xx: something went wrong inside; the service's log has the details under `request_id`."""


class BadAnswer(ApiError):
    """What came is not what gradq sends: another service, a broken file."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(502, code, detail)


class WaitTimeout(ClientError, TimeoutError):
    """The job had not ended in time. It goes on; `job` is as it was seen last."""

    def __init__(self, job: JobView, seconds: float) -> None:
        super().__init__(f"{job.id} is {job.status} after {seconds:g} s of waiting; it goes on")
        self.job = job


class JobFailed(ClientError):
    """A job that was to succeed failed or was cancelled; `job` says why in `status_reason`."""

    def __init__(self, job: JobView) -> None:
        reason = job.status_reason or {}
        words = ": ".join(str(reason[part]) for part in ("code", "detail") if reason.get(part))
        super().__init__(f"{job.id} {job.status}" + (f" ({words})" if words else ""))
        self.job = job


BY_CODE: dict[str, type[ApiError]] = {
    "insufficient_scope": InsufficientScope,
    "wrong_state": WrongState,
    "dataset_in_use": DatasetInUse,
    "idempotency_in_progress": RequestInProgress,
    "idempotency_key_reused": KeyReused,
    "invalid_spec": InvalidSpec,
    "invalid_query": InvalidQuery,
    "invalid_upload": InvalidUpload,
    "invalid_images": InvalidImages,
    "not_built": NotBuilt,
}

BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    406: NotAcceptable,
    409: Conflict,
    413: TooLarge,
    422: InvalidRequest,
    429: RateLimited,
    503: ServiceUnavailable,
}


def from_problem(status: int, reason: str, body: object, retry_after: float | None = None) -> ApiError:
    """The exception for an answer of 400 and above; `body` is its JSON, or None where it has none."""
    problem = body if isinstance(body, dict) else {}
    code = str(problem.get("code", "http_error"))
    kind = BY_CODE.get(code) or BY_STATUS.get(status) or (ServerError if status >= 500 else ApiError)
    detail = str(problem.get("detail") or problem.get("title") or f"{status} {reason}")
    return kind(status, code, detail, problem.get("errors"), problem=problem, retry_after=retry_after)
