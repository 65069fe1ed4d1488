"""The exceptions of the client. Error codes of the service have their own classes.

ClientError
├── Unreachable             the service does not answer, or each connection breaks
│   └── InvalidSetting      the address, token, proxy or certificates cannot be used; nothing was sent
├── ApiError                an answer of 400 or above: status, code, detail, errors, request_id
│   ├── BadRequest 400      Unauthorized 401   NotFound 404   NotAcceptable 406   TooLarge 413
│   ├── Forbidden 403
│   │   └── InsufficientScope    the token lacks the scope that the call needs; names it
│   ├── Conflict 409
│   │   ├── WrongState      the job's state does not allow this; names the state and the allowed actions
│   │   ├── DatasetInUse
│   │   └── RequestInProgress    a request with the same Idempotency-Key is in progress
│   ├── InvalidRequest 422
│   │   ├── InvalidSpec  InvalidQuery  InvalidUpload  InvalidImages  NotBuilt
│   │   └── KeyReused       this Idempotency-Key was used for another request
│   ├── RateLimited 429     ServiceUnavailable 503   ServerError 5xx
│   └── BadAnswer           the answer is not one of gradq's
├── WaitTimeout             also a TimeoutError: the job had not ended in time; it continues
└── JobFailed               `wait(check=True)`: the job did not succeed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradq.client.job_view import JobView
from gradq.client.masking import without_secrets


class ClientError(Exception):
    """Base of the client's exceptions. `tries`: how often the request was sent. `proxy`: the one it went through."""

    tries = 1
    proxy: str | None = None


class Unreachable(ClientError):
    """No answer from `url`, whose password is hidden. `refused`: no connection could be made, so nothing was sent."""

    def __init__(self, url: str, reason: str, refused: bool = True, proxy: str | None = None) -> None:
        url = without_secrets(url)
        super().__init__(f"cannot reach {url}{through(proxy)}: {reason}")
        self.url = url
        self.reason = reason
        self.refused = refused
        self.proxy = proxy


class InvalidSetting(Unreachable):
    """An address, token, proxy or certificate file cannot be used, so no request was sent; `reason` says why."""

    def __init__(self, reason: str, url: str) -> None:
        super().__init__(url, reason)
        self.args = (reason,)


class ApiError(ClientError):
    """The service answered with a status of 400 or above.

    `status` and `code` are for programs, `detail` is for people. `errors` names each wrong field by its JSON pointer.
    `problem` is the whole answer, `retry_after` the seconds of its Retry-After header, or None.
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

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.proxy is None or self.proxy in text else f"{text} (asked{through(self.proxy)})"

    @property
    def of_gradq(self) -> bool:
        """Whether the answer is one of gradq's errors; False for those of proxies and other programs."""
        return self.code not in NOT_OF_GRADQ or "code" in self.problem

    @property
    def request_id(self) -> str | None:
        """The id of this request in the service's log, or None."""
        found = self.problem.get("request_id")
        return None if found is None else str(found)

    def names(self, pointer: str) -> bool:
        """Whether `pointer` is one of the wrong fields."""
        return any(wrong.get("pointer") == pointer for wrong in self.errors)


class BadRequest(ApiError):
    """400: the body could not be read."""


class Unauthorized(ApiError):
    """401: a token is required, and none or an invalid one was sent; `code` says which.

    Set GRADQ_TOKEN, or `Client(token=…)`, to a token of this service; `gradq token create` on its machine makes one.
    """


class Forbidden(ApiError):
    """403: the call is not allowed."""


class InsufficientScope(Forbidden):
    """403: the token is valid, but lacks the scope that the call needs."""

    @property
    def scope(self) -> str:
        """The scope that the call needs; `gradq token create NAME --scope …` makes a token with it."""
        return str(self.problem.get("scope", ""))


class NotFound(ApiError):
    """404: the job, file or dataset does not exist, or belongs to another owner."""


class NotAcceptable(ApiError):
    """406: the service has no answer of the requested media type."""


class Conflict(ApiError):
    """409: the current state does not allow the call."""


class WrongState(Conflict):
    """409: the job's state does not allow this."""

    @property
    def state(self) -> str:
        """The job's status at the time of the call."""
        return str(self.problem.get("state", ""))

    @property
    def allowed(self) -> list[str]:
        """The actions that this state allows."""
        return [str(action) for action in self.problem.get("allowed") or []]


class DatasetInUse(Conflict):
    """409: a job that has not ended needs this dataset."""


class RequestInProgress(Conflict):
    """409: a request with this Idempotency-Key is in progress."""


class TooLarge(ApiError):
    """413: the body is larger than the service accepts."""


class InvalidRequest(ApiError):
    """422: `errors` names the wrong fields, with a `detail` each."""


class InvalidSpec(InvalidRequest):
    """422: the job spec is not valid; all wrong fields are named at once."""


class InvalidQuery(InvalidRequest):
    """422: a parameter is not valid."""


class InvalidUpload(InvalidRequest):
    """422: the parts or fields of the upload are not valid."""


class InvalidImages(InvalidRequest):
    """422: a part is not an image, or does not have the model's shape."""


class NotBuilt(InvalidRequest):
    """422: the service does not support this."""


class KeyReused(InvalidRequest):
    """422: the Idempotency-Key was used for another request. Use a new key for a new request."""


class RateLimited(ApiError):
    """429: too many requests; `retry_after` has the seconds to wait."""


class ServiceUnavailable(ApiError):
    """503: the service is overloaded or lacks its database; `retry_after` has the seconds to wait."""


class ServerError(ApiError):
    """5xx: an internal error; the service's log has the details under `request_id`."""


class BadAnswer(ApiError):
    """The answer is not one of gradq's: another service, a damaged file. Its `status` is 502, whatever was received."""

    def __init__(self, code: str, detail: str, proxy: str | None = None) -> None:
        super().__init__(502, code, detail)
        self.proxy = proxy


class WaitTimeout(ClientError, TimeoutError):
    """The job had not ended in time. It continues; `job` is as received last."""

    def __init__(self, job: JobView, seconds: float) -> None:
        super().__init__(f"{job.id} is {job.status} after {seconds:g} s of waiting; it continues")
        self.job = job


class JobFailed(ClientError):
    """The job failed or was cancelled; `job.status_reason` says why."""

    def __init__(self, job: JobView) -> None:
        reason = job.status_reason or {}
        words = ": ".join(str(reason[part]) for part in ("code", "detail") if reason.get(part))
        super().__init__(f"{job.id} {job.status}" + (f" ({words})" if words else ""))
        self.job = job


PASSING = (429, 502, 503, 504)
PASSING_OF_PROXIES = (404, 408)  # and all from 500 on: a proxy that does not find or reach the service
NOT_OF_GRADQ = ("http_error", "not_gradq")  # the codes that the client gives to answers of other programs

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


def is_away(error: Exception) -> bool:
    """Whether the service may answer the same request later: no answer, or a status that says so.

    A 404 or 500 of gradq is about the request. The same status without gradq's body is a proxy's, about the service."""
    if isinstance(error, ApiError):
        of_proxy = not error.of_gradq and (error.status in PASSING_OF_PROXIES or error.status >= 500)
        return error.status in PASSING or of_proxy
    return isinstance(error, Unreachable) and not isinstance(error, InvalidSetting)


def through(proxy: str | None) -> str:
    """` through the proxy …`, to be appended to an address or answer; empty without a proxy."""
    return "" if proxy is None else f" through the proxy {proxy}"


def from_problem(
    status: int, reason: str, body: object, retry_after: float | None = None, proxy: str | None = None
) -> ApiError:
    """The exception for an answer of 400 or above; `body` is its JSON, or None where it has none."""
    problem = body if isinstance(body, dict) else {}
    code = str(problem.get("code", "http_error"))
    kind = BY_CODE.get(code) or BY_STATUS.get(status) or (ServerError if status >= 500 else ApiError)
    detail = str(problem.get("detail") or problem.get("title") or f"{status} {reason}{through(proxy)}")
    error = kind(status, code, detail, problem.get("errors"), problem=problem, retry_after=retry_after)
    error.proxy = proxy
    return error
