"""The command line, and a client for programs and notebooks.

    from gradq import Client
    with Client() as client:
        job = client.submit(architecture="mlp", gradients="manual").wait()

`import gradq` alone imports no part of the client: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        InvalidSetting,
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
    "InvalidSetting",
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

_MODULES = {  # below gradq.client; every other name of __all__ is an exception in `problems`
    "AsyncClient": "asynchronous",
    "AsyncJob": "asynchronous",
    "Client": "blocking",
    "Event": "events",
    "Job": "job",
    "Predictions": "images",
}


def _look_up(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.client.{_MODULES.get(name, 'problems')}"), name)
    globals()[name] = found
    return found


if not TYPE_CHECKING:  # with a __getattr__, a type checker accepts every name
    __getattr__ = _look_up


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
