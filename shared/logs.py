"""Logging through structlog, one line per event: coloured text on a terminal, JSON otherwise."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Send structlog to standard error at `level`. Called once, by the process that owns standard error."""
    terminal = sys.stderr.isatty()
    plain = structlog.dev.plain_traceback  # the default, rich's, shows local variables, and so passwords
    console = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    renderer = console if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
