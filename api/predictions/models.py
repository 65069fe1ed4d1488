"""Models in memory: those that predictions used last, and why others are refused."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from api.http.errors import NotBuilt
from shared.errors import FieldError
from shared.inference import Model


@dataclass(frozen=True)
class Refusal:
    """Why a model is not computed. Not the exception itself, whose traceback would keep the bytes of the file."""

    errors: tuple[FieldError, ...]
    size_bytes = 1 << 10  # about


class ModelCache:
    """LRU cache of models by the SHA-256 of their files, up to `limit_bytes` in all. A refusal is stored as a model is:
    the file of a model that is not computed is not read again for each request."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.size_bytes = limit_bytes, 0
        self._held: OrderedDict[str, Model | Refusal] = OrderedDict()
        self._lock = threading.Lock()
        self._loads: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # by key, while threads use them

    def find(self, key: str) -> Model | None:
        """The model, if it is in memory. Raises NotBuilt if it was refused."""
        with self._lock:
            if (held := self._held.get(key)) is None:
                return None
            self._held.move_to_end(key)
        if isinstance(held, Refusal):
            raise NotBuilt(list(held.errors))
        return held

    def get(self, key: str, load: Callable[[], Model]) -> Model:
        """The model, from memory or from `load`; only one thread at a time loads a key, and others wait for it. Raises
        whatever `load` raises."""
        with self._lock:
            alone = self._loads.setdefault(key, threading.Lock())
        with alone:
            if (found := self.find(key)) is not None:
                return found
            try:
                model = load()
            except NotBuilt as error:
                self._put(key, Refusal(tuple(error.errors)))
                raise
            self._put(key, model)
            return model

    def _put(self, key: str, held: Model | Refusal) -> None:
        with self._lock:
            self._held[key] = held
            self.size_bytes += held.size_bytes
            while len(self._held) > 1 and self.size_bytes > self.limit_bytes:
                self.size_bytes -= self._held.popitem(last=False)[1].size_bytes
