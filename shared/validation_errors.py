"""Converts pydantic's errors to the API's: a JSON pointer, a code, and a text with what was expected and received."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from shared.errors import FieldError

UNION_FIELDS = ("architecture", "init", "loss", "optimizer", "schedule", "validation")
UNION_LISTS = ("augment",)


def field_error(model: type[BaseModel], error: ErrorDetails) -> FieldError:
    """Convert one entry of `ValidationError.errors()` of `model`."""
    path = list(error["loc"])
    if len(path) > 1 and path[0] in UNION_FIELDS:
        del path[1]  # pydantic inserts the branch of the union, which is not a level of the client's document
    if len(path) > 2 and path[0] in UNION_LISTS:
        del path[2]
    if path and path[-1] == "[key]":
        path.pop()
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return FieldError(pointer, error["type"], _detail(model, error, path))


def _detail(model: type[BaseModel], error: ErrorDetails, path: list[Any]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_fields(model, path)
        if path[-1] in known:
            return "does not belong to this type"
        guess = difflib.get_close_matches(str(path[-1]), known, n=1)
        return "unknown field" + (f"; did you mean '{guess[0]}'?" if guess else "")
    if kind == "union_tag_invalid":
        expected = context["expected_tags"]
        guess = difflib.get_close_matches(str(context["tag"]), expected.replace("'", "").split(", "), n=1)
        hint = f"; did you mean '{guess[0]}'?" if guess else ""
        return f"must be one of {expected}, got {_short(context['tag'])}{hint}"
    if kind == "union_tag_not_found":
        return "must be a name or an object with a 'type'"
    if kind == "model_attributes_type":
        return f"must be a name or an object with a 'type', got {_short(value)}"
    if kind == "model_type":
        return f"must be an object, got {_short(value)}"
    if kind == "missing":
        return "must be given"
    if kind == "string_pattern_mismatch":
        if "\\x00" in context["pattern"]:
            return f"must not contain control characters, got {_short(value)}"
        return f"must match {context['pattern']}, got {_short(value)}"
    text = error["msg"].replace("Input should be", "must be").replace("String should have", "must have")
    return f"{text}, got {_short(value)}"


def _known_fields(model: type[BaseModel], path: list[Any]) -> list[str]:
    """The fields allowed in place of the unknown one: the model's own, or those of all branches of a union field."""
    if len(path) == 1:
        return list(model.model_fields)
    field = model.model_fields.get(str(path[0]))
    if field is None:
        return []
    return sorted({name for branch in _models_in(field.annotation) for name in branch.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _short(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"
