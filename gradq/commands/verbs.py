"""Help texts: verbs by section, in the order of the table; values named by kind (N, TEXT, PATH), not by Python type.
Nothing is truncated. Also imports a verb's module when the verb is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import CompletionItem, TyperCommand, TyperGroup

SECTIONS = ("First steps", "Jobs", "Results", "Data and checks", "The service")
REST = "Commands"  # the section of verbs without one
TYPE = re.compile(r" <(?P<type>[^>|]+)>")  # as typer writes it after a name; choices, which have a |, are kept
VALUES = {"str": "TEXT", "int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "path": "PATH"}


class Verb(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return as_they_are(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        records = [(param, param.get_help_record(ctx)) for param in self.get_params(ctx)]
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [record for param, record in records if record is not None and param.param_type_name == kind]
            if rows:
                with formatter.section(title):
                    formatter.write_dl([(_named(name, kind), text) for name, text in rows])


def as_they_are(params: list[Any]) -> list[Any]:
    """The parameters, each with `AsItIs` as its conversion."""
    for param in params:
        conversion = getattr(param, "get_runtime_param", None)  # a typer without this method is slower, not wrong
        if conversion is not None and not isinstance(conversion, AsItIs):
            param.get_runtime_param = AsItIs(param)
    return params


class AsItIs:
    """Converts a parameter's value as typer does, but returns None and values of the right type unchanged. For those,
    typer would import pydantic, which takes as long as the rest of a verb's start."""

    def __init__(self, param: Any) -> None:
        self._type, self._conversion = param.type_descriptor.annotation, param.get_runtime_param

    def __call__(self) -> AsItIs:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if type(value) is self._type and self._type in (str, int, float):
            return value
        return self._conversion().coerce(value, param=param, ctx=ctx)


class Verbs(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return as_they_are(super().get_params(ctx))

    def lines(self) -> list[Line]:
        """The verbs that the help text lists."""
        return [
            Line(getattr(command, "rich_help_panel", None) or REST, name, "", (command.help or "").split("\n\n")[0])
            for name, command in self.commands.items()
            if not command.hidden
        ]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        lines = self.lines()
        width = max(len(line.name) for line in lines)
        for section in (*SECTIONS, REST):
            rows = [(line.name.ljust(width), line.help) for line in lines if line.section == section]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


@dataclass(frozen=True)
class Line:
    """One verb of the help text. `place`: `module:name` of its function or typer app, below gradq.commands."""

    section: str
    name: str
    place: str
    help: str
    hidden: bool = False

    def load(self) -> Any:
        """Imports the module and returns the command."""
        module, _, name = self.place.partition(":")
        found = getattr(import_module(f"gradq.commands.{module}"), name)
        if not isinstance(found, typer.Typer):
            one = typer.Typer(add_completion=False, rich_markup_mode=None)
            one.command(self.name, cls=Verb, rich_help_panel=self.section, hidden=self.hidden)(found)
            found = one
        command: Any = typer.main.get_command(found)
        command.name, command.rich_help_panel = self.name, self.section
        return command


class LazyVerbs(Verbs):
    """Verbs whose modules are imported when they are called, not when they are listed."""

    table: tuple[Line, ...] = ()

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = Loaded(self.table)  # type: ignore[assignment]  # never written to

    def lines(self) -> list[Line]:
        return [line for line in self.table if not line.hidden]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        verbs = [CompletionItem(line.name, help=line.help) for line in self.lines() if line.name.startswith(incomplete)]
        return [*verbs, *super(TyperGroup, self).shell_complete(ctx, incomplete)]


class Loaded(Mapping[str, Any]):
    """Name -> command, loaded at its first use."""

    def __init__(self, lines: tuple[Line, ...]) -> None:
        self._lines = {line.name: line for line in lines}
        self._commands: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._commands:
            self._commands[name] = self._lines[name].load()
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def _named(name: str, kind: str) -> str:
    """`--port <int range>` becomes `--port N`; an argument loses its type."""
    return TYPE.sub(lambda found: "" if kind == "argument" else f" {VALUES.get(found['type'], 'VALUE')}", name)
