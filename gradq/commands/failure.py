"""Exceptions that verbs raise themselves. Other expected errors come from the client or from parts of the service."""

from __future__ import annotations

from gradq.commands.options import Exit


class CommandError(Exception):
    """`code`: that of the problem; `exit`: the exit code; `next_step`: what to do about it."""

    code = "command_failed"
    exit = Exit.FAILED
    next_step: str | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NoServer(CommandError):
    """The verb needs a package of the service, and only the client is installed."""

    code = "configuration_error"
    exit = Exit.USAGE
    next_step = "Run `pip install 'gradq[server]'`."

    def __init__(self, verb: str, missing: str) -> None:
        super().__init__(f"{verb} needs {missing}, which comes with the service: pip install 'gradq[server]'")
