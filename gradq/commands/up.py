"""The verb `up`: the whole service on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradq.commands.options import AsJson, print_json_line
from gradq.commands.service_process import Host, Port, Slots, SlotThreads


def up(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    state: Annotated[Path | None, typer.Option(help="Folder for database, files, logs. [GRADQ_STATE_DIR]")] = None,
    slots: Slots = None,
    threads: SlotThreads = None,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine: broker, API and one worker.

    Prints `ready http://…` when it accepts jobs. Ctrl-C or SIGTERM stops all of
    it; running jobs are checkpointed and resume at the next start.
    """
    from gradq.local.embedded import EmbeddedService
    from gradq.local.public_address import require_a_token
    from shared.config import Settings
    from shared.log_stream import hold_streams

    hold_streams()  # the reader of a pipe may be gone; the parts must still be looked after, and stopped in order
    given = {"state_dir": state, "slots": slots, "threads_per_slot": threads}
    settings = Settings.from_env(**{name: value for name, value in given.items() if value is not None})
    require_a_token(host, settings)
    raise typer.Exit(EmbeddedService(settings, _say_json if as_json else _say).run(host, port))


def _say(line: str) -> None:
    print(line, flush=True)


def _say_json(line: str) -> None:
    """Prints a line as a JSON object; `ready` is the address in the line that announces it, else null."""
    word, _, rest = line.partition(" ")
    print_json_line({"message": line, "ready": rest if word == "ready" else None})
