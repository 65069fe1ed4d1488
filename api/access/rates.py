"""Rate limits per token: Flask-Limiter with its counters in Redis, or in this process while Redis is unreachable or
returns errors.

Requests without a token are not counted.
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
from shared.redis_deadline import pool

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
NONE = "none"
REDIS_SECONDS = 0.3  # timeout; Flask-Limiter then tries Redis again after 1 s, 2 s … 32 s


def register(app: Flask, settings: Settings) -> None:
    """Add the limits to the app. Call it after `identify` is registered; it connects to Redis at the first request."""
    options: dict[str, Any] = {
        "socket_connect_timeout": REDIS_SECONDS,
        "socket_timeout": REDIS_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    storage: dict[str, Any] = {"connection_pool": pool(redis_url(settings.broker_url), **options)}
    limits = [
        ApplicationLimit(settings.rate_reads, exempt_when=_changes, scope="reads"),
        ApplicationLimit(settings.rate_changes, exempt_when=_reads, scope="changes"),
    ]
    limiter = Limiter(
        _caller,
        application_limits=[limit for limit in limits if limit.limit_provider != NONE],
        storage_uri=redis_url(settings.broker_url).replace("unix://", "redis+unix://", 1),
        storage_options=storage,
        in_memory_fallback_enabled=True,
        swallow_errors=True,  # of Redis, in a thread that was there when another began to use the fallback
        on_breach=_refusal,
        request_identifier=lambda: request.endpoint or "nothing",  # requests without a route count as well
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
    detail = f"more than {breached.limit} with one token; retry later, or send fewer requests"
    response = problem(RateLimited.status, RateLimited.code, RateLimited.title, detail)
    response.headers["Retry-After"] = str(seconds_until(breached.reset_at))
    return response
