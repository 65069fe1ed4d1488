"""Logging through structlog, one line per event: coloured text on a terminal, JSON otherwise. It never raises."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo

from shared.log_stream import LogStream, hide_in_streams, hold_streams
from shared.plain_text import escaped

LONGEST_VALUE = 1000  # characters of a text in a line; tracebacks are longer
LONGEST_PATH = 200  # characters of a path in a line, which anybody may send
UNCUT = ("exception", "event", "timestamp")


def configure(level: str, secrets: Iterable[str] = ()) -> None:
    """Send structlog to standard error at `level`, without the `secrets`, which errors of libraries may contain. Called
    once, by the process that owns standard error."""
    hold_streams()
    hide_in_streams(secrets)
    stream = sys.stderr
    terminal = stream.isatty()
    console = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)
    renderer = console if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            cut_values,
            *([_escape_texts] if terminal else []),  # JSON has escapes of its own
            renderer,
        ],
        wrapper_class=_logger_class(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: LineLogger(stream),
        cache_logger_on_first_use=True,
    )


class LineLogger(structlog.WriteLogger):
    """Writes each line with its end in one call. Has no lock of its own: a signal handler may log."""

    def msg(self, message: str) -> None:
        self._write(message + "\n")

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _logger_class(level: int) -> Any:
    """structlog's logger of that level. A line that cannot be made, for a value without a text, counts as dropped."""
    filtering: Any = structlog.make_filtering_bound_logger(level)

    class UnfailingLogger(filtering):  # made at run time
        def _proxy_to_logger(self, *arguments: Any, **values: Any) -> Any:
            try:
                return super()._proxy_to_logger(*arguments, **values)
            except Exception as error:
                if isinstance(sys.stderr, LogStream):
                    sys.stderr.drop(f"{type(error).__name__} while it was made")
                return None

    return UnfailingLogger


def cut_values(_logger: Any, _method: str, values: EventDict) -> EventDict:
    """A processor: cuts long texts, since some come from requests."""
    for name, value in values.items():
        if isinstance(value, str) and len(value) > LONGEST_VALUE and name not in UNCUT:
            values[name] = cut(value, LONGEST_VALUE)
    return values


def cut(text: str, longest: int) -> str:
    """The first `longest` characters, and how many there were, for a longer text."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


def _escape_texts(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Paths of requests and messages of other services may hold what a terminal obeys."""
    return {name: escaped(value) if isinstance(value, str) else value for name, value in event.items()}


def _write_traceback(to: TextIO, error: ExcInfo) -> None:
    """Without local variables, which may be passwords; rich's, structlog's default, shows them."""
    out = io.StringIO()
    structlog.dev.plain_traceback(out, error)
    to.write("\n".join(map(escaped, out.getvalue().split("\n"))))
