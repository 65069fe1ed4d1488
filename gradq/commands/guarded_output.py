"""Standard output and error of the command line, on which texts of others are written escaped, whoever prints them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from gradq.commands.plain_text import escaped_lines


class GuardedStream:
    """A text stream that escapes what it writes, as `escaped_lines`; the rest is the stream's. On a terminal, colours
    are kept: the logs of the service have them."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def write(self, text: str) -> int:
        self.unguarded.write(escaped_lines(text, coloured=self.unguarded.isatty()))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guards sys.stdout and sys.stderr within the block. One that is closed, and so None, stays: `print` ignores it."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:
            setattr(sys, name, GuardedStream(stream))
    try:
        yield
    finally:  # a verb of the service may have put another stream below the guard
        sys.stdout, sys.stderr = unguarded(sys.stdout), unguarded(sys.stderr)


def unguarded(stream: TextIO) -> TextIO:
    """The stream itself, for a writer that escapes texts and moves the cursor, such as `PlainConsole`."""
    return stream.unguarded if isinstance(stream, GuardedStream) else stream
