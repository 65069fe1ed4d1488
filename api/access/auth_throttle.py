"""Limits wrong tokens per address; requests with a valid token from the same address are not affected."""

from __future__ import annotations

from flask import Flask, current_app, request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from api.http.render import seconds_until
from shared.errors import RateLimited

EXTENSION = "gradq.auth_throttle"
ALLOWED = RateLimitItemPerMinute(20)


def register(app: Flask) -> None:
    app.extensions[EXTENSION] = FixedWindowRateLimiter(
        MemoryStorage()
    )  # in memory, so that a flood does not reach Redis


def count() -> None:
    """Count a wrong token. Raises RateLimited after more than 20 in a minute from this address."""
    counter: FixedWindowRateLimiter = current_app.extensions[EXTENSION]
    address = request.remote_addr or "this host"
    if not counter.hit(ALLOWED, address):
        detail = f"more than {ALLOWED.amount} wrong tokens within a minute from this address"
        raise RateLimited(detail, seconds_until(counter.get_window_stats(ALLOWED, address).reset_time))
