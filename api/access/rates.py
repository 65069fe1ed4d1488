"""How often one caller may ask: Flask-Limiter, counting in Redis, or in this process while Redis is away.

Whoever sent a token is counted by it. Where none is asked for nobody is counted, and nothing is spent on it.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request
from flask_limiter import ApplicationLimit, Limiter, RequestLimit
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.access.auth import principal
from api.http.errors import problem
from api.http.render import seconds_until
from shared.broker import redis_url
from shared.config import Settings
from shared.errors import RateLimited

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
NONE = "none"
REDIS_SECONDS = 0.3  # for a Redis that is silent; it is then left alone for 1 s, 2 s … 32 s


def register(app: Flask, settings: Settings) -> None:
    """Count each request from here on: to be called when the app knows who asks. Connects at the first request."""
    options: dict[str, Any] = {
        "socket_connect_timeout": REDIS_SECONDS,
        "socket_timeout": REDIS_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    limits = [
        ApplicationLimit(settings.rate_reads, exempt_when=_changes, scope="reads"),
        ApplicationLimit(settings.rate_changes, exempt_when=_reads, scope="changes"),
    ]
    limiter = Limiter(
        _caller,
        application_limits=[limit for limit in limits if limit.limit_provider != NONE],
        storage_uri=redis_url(settings.broker_url).replace("unix://", "redis+unix://", 1),
        storage_options=options,
        in_memory_fallback_enabled=True,
        on_breach=_refusal,
        request_identifier=lambda: request.endpoint or "nothing",  # to ask for what is not there counts as well
        key_prefix="gradq",
    )
    limiter.request_filter(_is_not_counted)
    limiter.init_app(app)


def _is_not_counted() -> bool:
    return principal().token_id is None


def _caller() -> str:
    return str(principal().token_id)


def _reads() -> bool:
    return request.method in SAFE_METHODS


def _changes() -> bool:
    return request.method not in SAFE_METHODS


def _refusal(breached: RequestLimit) -> Response:
    detail = f"more than {breached.limit} by one token; ask again later, or less often"
    response = problem(RateLimited.status, RateLimited.code, RateLimited.title, detail)
    response.headers["Retry-After"] = str(seconds_until(breached.reset_at))
    return response
