"""rich's console for texts of others: shown literally, without markup, and escaped where they are not plain text."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from gradq.commands.guarded_output import unguarded
from gradq.commands.plain_text import escaped_lines


class PlainConsole(Console):
    """Writes to standard output, or with `stderr` to standard error; other options are those of `Console`."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        options.setdefault("file", unguarded(sys.stderr if stderr else sys.stdout))
        super().__init__(stderr=stderr, **{"markup": False, "emoji": False, "highlight": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Console's, with texts escaped; the segments with which rich moves the cursor stay."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            plain = text if control else escaped_lines(text)
            yield segment if plain is text or plain == text else Segment(plain, style, control)
