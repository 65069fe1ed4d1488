"""Clients: who sends a request, as far as that is known before it is served."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable

MOST = 10_000  # credentials that are remembered, as hashes; those that were used last


class Clients:
    """The owners of tokens and sessions that an earlier request was served with, and addresses for all others: what a
    client only claims to be gives it no share of its own."""

    def __init__(self) -> None:
        self._owners: OrderedDict[bytes, tuple[str]] = OrderedDict()  # by credentials; no address is a tuple

    def find(self, credentials: bytes, address: str) -> Hashable:
        """The owner, or the address if it is not known whose the credentials are, or there are none."""
        if not credentials or (owner := self._owners.get(key := _hash(credentials))) is None:
            return address
        self._owners.move_to_end(key)
        return owner

    def learn(self, credentials: bytes, owner: str) -> None:
        """A request with these credentials was served as this owner's."""
        if credentials:
            self._owners[_hash(credentials)] = (owner,)
            if len(self._owners) > MOST:
                self._owners.popitem(last=False)


def _hash(credentials: bytes) -> bytes:
    return hashlib.sha256(credentials).digest()
