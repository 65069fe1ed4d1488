"""How verbs are listed in a help text: by section, in the order in which people meet them, each with its whole first
sentence."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

SECTIONS = ("First steps", "Jobs", "Results", "Data and checks", "The service")
REST = "Commands"  # where a verb is of no section


class Verbs(TyperGroup):
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        width = max(map(len, shown))
        for section in (*SECTIONS, REST):
            rows = [
                (name.ljust(width), (command.help or "").split("\n\n")[0])
                for name, command in shown.items()
                if (getattr(command, "rich_help_panel", None) or REST) == section
            ]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)
