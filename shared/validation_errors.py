"""Converts pydantic's errors to the API's: a JSON pointer, a code, and a text with what was expected and received."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import MOST_ERRORS, FieldError
from shared.plain_text import PLAIN, refusal

UNION_FIELDS = ("architecture", "init", "loss", "optimizer", "schedule", "validation")
UNION_LISTS = ("augment",)
LIKELY, LIKELY_SHORT, SHORT_WORD = 0.72, 0.8, 4  # similarities by difflib, from 0 to 1; letters


def field_errors(model: type[BaseModel], error: ValidationError) -> tuple[list[FieldError], int]:
    """The first `MOST_ERRORS` entries of a ValidationError of `model`, and the number of the others: a body can have as
    many unknown fields as it has bytes, and each costs a search for the name that was meant."""
    found = error.errors(include_url=False)
    return [field_error(model, e) for e in found[:MOST_ERRORS]], max(0, len(found) - MOST_ERRORS)


def field_error(model: type[BaseModel], error: ErrorDetails) -> FieldError:
    """Convert one entry of `ValidationError.errors()` of `model`."""
    path = path_of(error)
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return FieldError(pointer, error["type"], _detail(model, error, path))


def path_of(error: ErrorDetails) -> list[str | int]:
    """Names and indices that lead to the wrong value in the client's document."""
    path = list(error["loc"])
    if len(path) > 1 and path[0] in UNION_FIELDS:
        del path[1]  # pydantic inserts the branch of the union, which is not a level of the client's document
    if len(path) > 2 and path[0] in UNION_LISTS:
        del path[2]
    if path and path[-1] == "[key]":
        path.pop()
    return path


def _detail(model: type[BaseModel], error: ErrorDetails, path: list[Any]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(model, path)
    if kind == "union_tag_invalid":
        expected = context["expected_tags"]
        hint = did_you_mean(str(context["tag"]), expected.replace("'", "").split(", "))
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
        if context["pattern"] == PLAIN:
            return f"{refusal(value)}, got {_short(value)}"
        return f"must match {context['pattern']}, got {_short(value)}"
    text = error["msg"].replace("Input should be", "must be").replace("String should have", "must have")
    return f"{text}, got {_short(value)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty text if no known word is so near that it is likely to be meant."""
    guess = closest(word, known)
    return "" if guess is None else f"; did you mean '{guess}'?"


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is likely to be a misspelling of; None if there is none.

    That is one with the same letters in another order, case or separation (`mpl`, `batchSize`), or else the most
    similar one. Short words have to be more similar: most have one that differs in two letters.
    """
    candidates = {plain: name for name in known if (plain := _plain(name))}
    mine = _plain(word)
    same = next((name for plain, name in candidates.items() if sorted(plain) == sorted(mine)), None)
    if same is not None and mine:
        return same
    cutoff = LIKELY if len(mine) > SHORT_WORD else LIKELY_SHORT
    found = difflib.get_close_matches(mine, candidates, n=1, cutoff=cutoff)
    return candidates[found[0]] if found else None


def _plain(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())


def _unknown_field(model: type[BaseModel], path: list[Any]) -> str:
    name, known = str(path[-1]), _known_fields(model, path)
    if name in known:
        return "does not belong to this type"
    if len(path) > 1:
        if name in model.model_fields:
            return f"unknown field here; '{name}' is a field of the whole, beside '{path[0]}'"
        return "unknown field" + (did_you_mean(name, known) or f"; there are: {', '.join(known)}" if known else "")
    instead_of: Callable[[str, Collection[str]], str | None] | None = getattr(model, "instead_of", None)
    instead = None if instead_of is None else instead_of(name, known)
    if instead is not None:
        return f"unknown field; {instead}"
    return "unknown field" + (did_you_mean(name, known) or _below(model, name))


def _below(model: type[BaseModel], name: str) -> str:
    """`; it belongs to 'optimizer': {"type": "sgd", "momentum": …}`, or an empty text if no field has such a part."""
    for field, info in model.model_fields.items():
        for branch in _models_in(info.annotation):
            if name in branch.model_fields and name != "type":
                kind = branch.model_fields["type"].default if "type" in branch.model_fields else None
                example = (f'"type": "{kind}", ' if kind else "") + f'"{name}": …'
                return f" here; it belongs to '{field}': {{{example}}}"
    return ""


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
