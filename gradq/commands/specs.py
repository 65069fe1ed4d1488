"""Reads job specs from YAML or JSON files, standard input and `--set field=value`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import typer

from gradq.commands.json_specs import NotJson, value_of_json
from gradq.commands.options import pair

Spec = dict[str, Any]
PresetSpec = Callable[[str], Spec]  # a preset's name -> the fields that it sets; {} for an unknown preset

# the service's default `type` of each object field; a test compares them with the service's spec
TYPES = {
    "architecture": "mlp",
    "init": "pytorch",
    "loss": "cross_entropy",
    "optimizer": "sgd",
    "schedule": "constant",
}


# --- files ------------------------------------------------------------------------------------------------------------


def read_specs(file: str) -> list[Spec]:
    """The specs of a file, or of standard input for `-`; `---` separates several. Raises BadParameter."""
    try:
        text = (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")).removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise typer.BadParameter(f"cannot read {file}: {reason}", param_hint="--file") from error
    try:
        found = _from_json(text, file) if text.lstrip().startswith("{") else _from_yaml(text, file)
    except RecursionError as error:
        raise typer.BadParameter(f"{file} is nested too deeply", param_hint="--file") from error
    for spec in found:
        if not isinstance(spec, dict):
            kind = "nothing" if spec is None else f"a {type(spec).__name__}"
            raise typer.BadParameter(f"{file} must hold the fields of a job, got {kind}", param_hint="--file")
    return found


def _from_json(text: str, file: str) -> list[Any]:
    """The file's value. Text that is not JSON is parsed as YAML, which has braces too, unless the suffix is .json."""
    try:
        return [value_of_json(text)]
    except NotJson as error:
        if error.repeated or file.endswith(".json"):
            raise _wrong(file, error.line, error.column, error.problem) from error
    return _from_yaml(text, file)


def _from_yaml(text: str, file: str) -> list[Any]:
    from gradq.commands.yaml_specs import NotYaml, documents

    try:
        return documents(text) or [None]
    except NotYaml as error:
        raise _wrong(file, error.line, error.column, error.problem) from error


def _wrong(file: str, line: int, column: int, what: str) -> typer.BadParameter:
    return typer.BadParameter(f"{file}, line {line}, column {column}: {what}", param_hint="--file")


# --- assignments ------------------------------------------------------------------------------------------------------


def assignments(texts: list[str] | None) -> list[tuple[str, Any]]:
    """Paths and values of `epochs=3`, `loss={"type":…}`, `architecture.hidden=[64,32]`, in the order given."""
    return [(path, value_of(value)) for path, value in (pair(text, "--set") for text in texts or [])]


def merged(file: Spec, assigned: list[tuple[str, Any]], options: Spec, preset: PresetSpec = lambda name: {}) -> Spec:
    """The spec of a job. Later sources override earlier ones: file, --set, options. Last, a --set with a dot changes a
    part of the resulting field, or of the preset's."""
    spec = dict(file)
    for path, value in assigned:
        if "." not in path:
            spec[path] = value
    spec |= options
    for path, value in assigned:
        if "." in path:
            put(spec, path, value, preset)
    return spec


def name_or_json(text: str | None) -> Any:
    """`mlp`, or `{"type":"mlp","hidden":[30]}`."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return value_of_json(text)
    except NotJson as error:
        what = error.problem if error.repeated else f"not JSON: {error}"
        raise typer.BadParameter(f"{text}: {what}") from error


def value_of(text: str) -> Any:
    """The JSON value, or the text itself if it is not JSON: `gradients=manual`. Raises BadParameter for a key that is
    given twice in an object."""
    try:
        return value_of_json(text)
    except NotJson as error:
        if error.repeated:
            raise typer.BadParameter(f"{text}: {error.problem}", param_hint="--set") from error
    except RecursionError:
        pass
    return text


def put(spec: Spec, path: str, value: Any, preset: PresetSpec) -> None:
    """Sets a part of a field, such as `architecture.hidden`; starts from the default if the spec lacks the field."""
    field, *parts = path.split(".")
    if not all([field, *parts]):
        raise typer.BadParameter(f"{path!r} is not a path of fields", param_hint="--set")
    default = default_of(spec, field, preset) if spec.get(field) is None else None
    place = spec[field] = _opened(spec.get(field), default, path)
    if default is not None and parts == ["type"] and place.get("type") != value:
        place.clear()  # the other fields are the defaults of the preset's type; another type may not have them
    for part in parts[:-1]:
        place[part] = _opened(place.get(part), None, path)
        place = place[part]
    place[parts[-1]] = value


def _opened(found: Any, default: Any, path: str) -> Spec:
    """A copy of the object, to be changed; a name such as `mlp` is short for `{"type": "mlp"}`."""
    found = default if found is None else found
    if isinstance(found, str):
        return {"type": found}
    if found is None or isinstance(found, dict):
        return deepcopy(found or {})
    raise typer.BadParameter(f"{path}: {json.dumps(found)} has no fields", param_hint="--set")


def default_of(spec: Spec, field: str, preset: PresetSpec) -> Any:
    """The preset's value of the field, else the service's default, of which only the `type` is known here."""
    of_preset = preset(str(spec["preset"])) if spec.get("preset") else {}
    if field in of_preset:
        return of_preset[field]
    return {"type": TYPES[field]} if field in TYPES else None
