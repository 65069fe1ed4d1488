"""Wrong tokens cost the address that they come from; those who have a good one come in from there as before."""

from __future__ import annotations

from flask import Flask, current_app, request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from api.http.render import seconds_until
from shared.errors import RateLimited

EXTENSION = "gradq.guesses"
ALLOWED = RateLimitItemPerMinute(20)


def register(app: Flask) -> None:
    app.extensions[EXTENSION] = FixedWindowRateLimiter(MemoryStorage())  # a flood does not reach Redis


def count() -> None:
    """Raise RateLimited where this address has sent too many in the last minute."""
    counter: FixedWindowRateLimiter = current_app.extensions[EXTENSION]
    address = request.remote_addr or "this host"
    if not counter.hit(ALLOWED, address):
        detail = f"more than {ALLOWED.amount} wrong tokens in a minute from this address"
        raise RateLimited(detail, seconds_until(counter.get_window_stats(ALLOWED, address).reset_time))
