"""What a verb raises by itself. Every other expected error comes from the client or from the service's parts."""

from __future__ import annotations

from gradq.commands.options import Exit


class CommandError(Exception):
    """`code` as in a problem, `exit` as a script sees it, `next_step`: what to do about it."""

    code = "command_failed"
    exit = Exit.FAILED
    next_step: str | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NoServer(CommandError):
    """The verb runs a part of the service, and only the client is installed."""

    code = "configuration_error"
    exit = Exit.USAGE
    next_step = "Run `pip install 'gradq[server]'`."

    def __init__(self, verb: str, missing: str) -> None:
        super().__init__(f"{verb} needs {missing}, which comes with the service: pip install 'gradq[server]'")
