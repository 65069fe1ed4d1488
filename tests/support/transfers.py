"""A network that damages what is fetched from the artifact store."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from shared.artifacts import ArtifactStore


class Transfers:
    """The next `damaged` files that are fetched or read have another byte at their end; `count` is of all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, damaged: int) -> None:
        self.damaged, self.count = damaged, 0
        right_get, right_open = ArtifactStore.get, ArtifactStore.open

        def get(store: ArtifactStore, key: str, path: Path) -> None:
            right_get(store, key, path)
            if self._damages():
                path.write_bytes(path.read_bytes()[:-1] + b"?")

        def open_(store: ArtifactStore, key: str) -> IO[bytes]:
            file = right_open(store, key)
            if self._damages():
                file.seek(1)
            return file

        monkeypatch.setattr(ArtifactStore, "get", get)
        monkeypatch.setattr(ArtifactStore, "open", open_)

    def _damages(self) -> bool:
        self.count += 1
        self.damaged -= 1
        return self.damaged >= 0
