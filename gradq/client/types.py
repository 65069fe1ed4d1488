"""Types of the values that the client takes and returns. Imports nothing of gradq."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
Points: TypeAlias = list[list[Any]]  # [[step, epoch, value], …]
Part: TypeAlias = str | Path | tuple[str, IO[bytes]]  # of an upload: a path, or (file name, open file)
Action: TypeAlias = Literal["cancel", "pause", "resume", "retry", "delete"]
