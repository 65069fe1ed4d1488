"""Logging through structlog, one line per event: coloured text on a terminal, JSON otherwise."""

from __future__ import annotations

import io
import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo

from shared.plain_text import escaped


def configure(level: str) -> None:
    """Send structlog to standard error at `level`. Called once, by the process that owns standard error."""
    terminal = sys.stderr.isatty()
    console = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)
    renderer = console if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([_escape_texts] if terminal else [structlog.processors.format_exc_info]),  # JSON has escapes of its own
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _escape_texts(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Paths of requests and messages of other services may hold what a terminal obeys."""
    return {name: escaped(value) if isinstance(value, str) else value for name, value in event.items()}


def _write_traceback(to: TextIO, error: ExcInfo) -> None:
    """Without local variables, which may be passwords; rich's, structlog's default, shows them."""
    out = io.StringIO()
    structlog.dev.plain_traceback(out, error)
    to.write("\n".join(map(escaped, out.getvalue().split("\n"))))
