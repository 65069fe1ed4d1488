"""What people type and import: the command line, and a client for programs and notebooks. Of gradq's other parts it
shares only `shared`.

    from gradq import Client
    with Client() as client:
        job = client.submit(architecture="mlp", gradients="manual").wait()
"""

from gradq.client.asynchronous import AsyncClient, AsyncJob
from gradq.client.blocking import Client
from gradq.client.events import Event
from gradq.client.images import Predictions
from gradq.client.job import Job
from gradq.client.problems import (
    ApiError,
    BadAnswer,
    BadRequest,
    ClientError,
    Conflict,
    DatasetInUse,
    Forbidden,
    InsufficientScope,
    InvalidImages,
    InvalidQuery,
    InvalidRequest,
    InvalidSpec,
    InvalidUpload,
    JobFailed,
    KeyReused,
    NotAcceptable,
    NotBuilt,
    NotFound,
    RateLimited,
    RequestInProgress,
    ServerError,
    ServiceUnavailable,
    TooLarge,
    Unauthorized,
    Unreachable,
    WaitTimeout,
    WrongState,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "BadAnswer",
    "BadRequest",
    "Client",
    "ClientError",
    "Conflict",
    "DatasetInUse",
    "Event",
    "Forbidden",
    "InsufficientScope",
    "InvalidImages",
    "InvalidQuery",
    "InvalidRequest",
    "InvalidSpec",
    "InvalidUpload",
    "Job",
    "JobFailed",
    "KeyReused",
    "NotAcceptable",
    "NotBuilt",
    "NotFound",
    "Predictions",
    "RateLimited",
    "RequestInProgress",
    "ServerError",
    "ServiceUnavailable",
    "TooLarge",
    "Unauthorized",
    "Unreachable",
    "WaitTimeout",
    "WrongState",
]
