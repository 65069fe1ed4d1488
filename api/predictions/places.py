"""Places for predictions: how many are computed and how many models read at once, and how many bytes of bodies are in
memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from api.connections.places import Places
from shared.config import Settings
from shared.errors import TooManyPredictions

AT_ONCE = 2  # computations; and, apart from them, models that are read from the store
WAITING, SECONDS = 8, 5.0
BODIES = 4  # of the largest size


class PredictionPlaces:
    """One owner has at most half of each; callers without a token have no owner and share all."""

    def __init__(self, settings: Settings) -> None:
        self.computing = Places(AT_ONCE, WAITING, SECONDS)
        self.loading = Places(AT_ONCE, WAITING, SECONDS)
        self.bytes = Places(BODIES * settings.predict_bytes)

    @contextmanager
    def taken(self, places: Places, owner: str | None, weight: int = 1) -> Iterator[None]:
        """Context manager: `weight` of `places`. Raises TooManyPredictions if they are not free in time."""
        leave = places.enter(owner, 1.0 if owner is None else 0.5, weight)
        if leave is None:
            detail = "this process serves as many predictions as it can at the same time, or as many of one owner"
            raise TooManyPredictions(f"{detail}; send this request again later, or fewer at a time")
        try:
            yield
        finally:
            leave()
