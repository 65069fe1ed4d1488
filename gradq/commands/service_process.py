"""Options of the verbs that start parts of the service, and how such a verb becomes the process of its part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes any free one.")]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Jobs at a time. Default: one per GPU, else one per CPU core up to 4.")
]
SlotThreads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads of one job. Default: cores divided by slots.")
]


def become(command: Sequence[str], env: dict[str, str]) -> NoReturn:
    """Replaces this process with that command, so that it receives the signals itself."""
    os.execve(command[0], list(command), env)  # no shell is wanted  # nosec B606
