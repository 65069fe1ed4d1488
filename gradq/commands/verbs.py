"""How verbs and what they take are listed in a help text: verbs by section, in the order in which people meet them;
values by what they are, not by Python's name for it. Nothing is cut."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

SECTIONS = ("First steps", "Jobs", "Results", "Data and checks", "The service")
REST = "Commands"  # where a verb is of no section
TYPE = re.compile(r" <(?P<type>[^>|]+)>")  # as typer writes it behind a name; of choices, with a |, it writes the words
VALUES = {"str": "TEXT", "int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "path": "PATH"}


class Verb(TyperCommand):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        records = [(param, param.get_help_record(ctx)) for param in self.get_params(ctx)]
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [record for param, record in records if record is not None and param.param_type_name == kind]
            if rows:
                with formatter.section(title):
                    formatter.write_dl([(_named(name, kind), text) for name, text in rows])


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


def _named(name: str, kind: str) -> str:
    """`--port <int range>` is `--port N`; an argument's name says by itself what it is."""
    return TYPE.sub(lambda found: "" if kind == "argument" else f" {VALUES.get(found['type'], 'VALUE')}", name)
