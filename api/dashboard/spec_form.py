"""The form of the Submit page, built from the JSON schema of the job spec: every field, its default, limits and
description. This module defines only the group of a field, and the titles of a few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.dashboard.spec_words import help_of, paragraph, written
from shared.spec.job_spec import JobSpec

Schema = dict[str, Any]

GROUPS = (
    ("Data", ("dataset", "validation", "augment")),
    ("Network", ("architecture", "init")),
    ("Training", ("gradients", "lr", "epochs", "batch_size", "optimizer", "schedule", "loss", "early_stopping")),
    ("Job", ("name", "priority", "seed", "labels")),
)
REST = "Advanced"  # all fields that are not in GROUPS
APART = ("preset",)  # selected above the form, since it sets the others
TITLES = {
    "dataset": "Dataset",
    "augment": "Augmentation",
    "init": "Initial weights",
    "init_from": "Weights of another job",
    "lr": "Learning rate",
    "eps": "Epsilon",
    "std": "Standard deviation",
    "verify": "Verify gradients",
    "max_seconds": "Longest attempt, seconds",
    "every_seconds": "Every … seconds",
    "every_epochs": "Every … epochs",
    "every_steps": "Every … steps",
    "patience_epochs": "Patience, epochs",
    "warmup_epochs": "Warm-up, epochs",
    "pixels": "Pixels",
}
ITEM = "#"  # in a pointer: replaced by the index in a list


@dataclass(frozen=True)
class Option:
    """One value to choose. `fields`: those of the object, in a choice between objects."""

    value: Any
    title: str
    help: str = ""
    chosen: bool = False
    word: bool = False  # a constant rather than an object
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True)
class Field:
    """`kind` selects the macro of _spec_form.html that renders the field and the function of js/spec_form.js that reads
    it."""

    kind: str
    name: str
    pointer: str
    title: str
    help: str = ""
    value: Any = None
    default: Any = None
    place: str = ""  # makes the id unique: fields of different branches can have the same pointer
    required: bool = False
    typed: bool = False  # a choice between objects that have a `type`
    whole: bool = False  # an integer
    most: int | None = None  # characters of a text, entries of a list
    options: tuple[Option, ...] = ()
    fields: tuple[Field, ...] = ()
    items: tuple[Field, ...] = ()
    hints: tuple[tuple[str, str], ...] = ()  # suggestions: value, description

    @property
    def id(self) -> str:
        return "f" + self.place.replace("/", "-")

    @property
    def text(self) -> str:
        return written(self.value)

    @property
    def usual(self) -> str:
        """The placeholder: the value that applies where the input is empty."""
        return "none" if self.kind == "nullable" else written(self.default)


@dataclass(frozen=True)
class Group:
    title: str
    fields: tuple[Field, ...]

    @property
    def folded(self) -> bool:
        return self.title == REST


@dataclass(frozen=True)
class Choices:
    """Values that the schema does not have, by pointer of the field: (value, title). `fixed`: the only allowed values;
    `hints`: suggestions for a free text."""

    fixed: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    hints: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


def groups(values: dict[str, Any], base: dict[str, Any], choices: Choices) -> tuple[Group, ...]:
    """The groups of GROUPS, then REST. `values`: initial content of the form; `base`: values that the service uses for
    fields that are not sent."""
    schema = JobSpec.model_json_schema()
    build = Builder(schema["$defs"], choices)
    fields = {
        name: build.field(name, part, f"/{name}", values.get(name), base.get(name))
        for name, part in schema["properties"].items()
        if name not in APART
    }
    placed = {name for _, names in GROUPS for name in names}
    rest = tuple(found for name, found in fields.items() if name not in placed)
    return (*(Group(title, tuple(fields[name] for name in names)) for title, names in GROUPS), Group(REST, rest))


@dataclass(frozen=True)
class Builder:
    definitions: dict[str, Schema]
    choices: Choices

    def field(self, name: str, schema: Schema, pointer: str, value: Any, default: Any, place: str = "") -> Field:
        schema, optional = self._plain(schema)
        place = place or pointer
        common: dict[str, Any] = {
            "name": name,
            "pointer": pointer,
            "place": place,
            "title": TITLES.get(name) or name.replace("_", " ").capitalize(),
            "help": help_of(schema),
            "value": value,
            "default": default,
        }
        if fixed := self.choices.fixed.get(pointer):
            return Field("choice", **common, options=options_of([v for v, _ in fixed], value, dict(fixed)))
        if "oneOf" in schema:
            options = self._branches(schema["oneOf"], pointer, place, value)
            return Field("union", **common, options=options, typed="discriminator" in schema)
        if "enum" in schema:
            return Field("choice", **common, options=options_of(schema["enum"], value))
        of_type = getattr(self, f"_{schema['type']}")
        made: Field = of_type(schema, common, optional)
        return made

    # --- by the schema's type -------------------------------------------------------------------------------------

    def _string(self, schema: Schema, common: dict[str, Any], optional: bool) -> Field:
        hints = tuple(self.choices.hints.get(common["pointer"], ()))
        return Field("text", **common, most=schema.get("maxLength"), hints=hints)

    def _number(self, schema: Schema, common: dict[str, Any], optional: bool) -> Field:
        return Field("nullable" if optional else "number", **common)

    def _integer(self, schema: Schema, common: dict[str, Any], optional: bool) -> Field:
        return Field("nullable" if optional else "number", **common, whole=True)

    def _boolean(self, schema: Schema, common: dict[str, Any], optional: bool) -> Field:
        return Field("boolean", **common)

    def _array(self, schema: Schema, common: dict[str, Any], optional: bool) -> Field:
        if "oneOf" not in schema["items"]:
            return Field("numbers", **common, whole=schema["items"]["type"] == "integer")
        pointer, place = f"{common['pointer']}/{ITEM}", f"{common['place']}/{ITEM}"
        items = [
            self.field("", schema["items"], pointer, one, None, f"{place}{i}") for i, one in enumerate(common["value"])
        ]
        fresh = self.field("", schema["items"], pointer, None, None, place)
        return Field("items", **common, most=schema.get("maxItems"), items=tuple(items), fields=(fresh,))

    def _object(self, schema: Schema, common: dict[str, Any], optional: bool) -> Field:
        if "properties" not in schema:
            return Field("pairs", **common, most=schema.get("maxProperties"))
        fields = self._fields(schema, common["pointer"], common["place"], common["value"])
        return Field("optional" if optional else "object", **common, fields=fields)

    def _branches(self, branches: Sequence[Schema], pointer: str, place: str, value: Any) -> tuple[Option, ...]:
        """The options of a choice between objects, or between an object and a constant; the one that `value` belongs to
        is chosen."""
        plain = [self._plain(branch)[0] for branch in branches]
        names = [tag_of(branch) for branch in plain]
        tag = value.get("type", names[0]) if isinstance(value, dict) else value
        tag = tag if tag in names else names[0]
        return tuple(
            Option(
                value=name,
                title=name,
                help=paragraph(branch) if "properties" in branch else "",
                chosen=name == tag,
                word="const" in branch,
                fields=self._fields(branch, pointer, f"{place}-{name}", value if name == tag else None),
            )
            for name, branch in zip(names, plain, strict=True)
        )

    def _fields(self, schema: Schema, pointer: str, place: str, values: Any) -> tuple[Field, ...]:
        held = values if isinstance(values, dict) else {}
        made = []
        for name, part in schema.get("properties", {}).items():
            if "const" not in part:
                default = part.get("default")
                built = self.field(name, part, f"{pointer}/{name}", held.get(name, default), default, f"{place}/{name}")
                made.append(built if name not in schema.get("required", ()) else _required(built))
        return tuple(made)

    def _plain(self, schema: Schema) -> tuple[Schema, bool]:
        """(schema, whether it allows null), with references resolved and the branch `null` removed. Keywords next to a
        reference (the field's own description) override those of its target."""
        if "anyOf" in schema:
            (branch,) = [one for one in schema["anyOf"] if one.get("type") != "null"]
            return self._plain({**branch, **{key: schema[key] for key in schema if key != "anyOf"}})[0], True
        if "$ref" in schema:
            found = self.definitions[schema["$ref"].rpartition("/")[2]]
            return {**found, **{key: schema[key] for key in schema if key != "$ref"}}, False
        return schema, False


def _required(built: Field) -> Field:
    return Field(**{**vars(built), "required": True})


def options_of(values: Sequence[Any], chosen: Any, titles: Mapping[Any, str] | None = None) -> tuple[Option, ...]:
    """A chosen value that is not among `values` (a dataset that has been deleted) is added, so that it is visible."""
    known = [*values] if chosen is None or chosen in values else [*values, chosen]
    names = titles or {}
    return tuple(Option(value, names.get(value, written(value)), chosen=value == chosen) for value in known)


def tag_of(branch: Schema) -> str:
    """The name that identifies a branch: the constant of its `type`, the constant that it is, or its title."""
    if "const" in branch:
        return str(branch["const"])
    kind = branch["properties"].get("type", {})
    return str(kind["const"] if "const" in kind else branch["title"].lower())
