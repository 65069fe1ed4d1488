"""Texts of a field in the Submit form, from its JSON schema: description, limits, and a value as an input shows it."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]

HARMLESS = (1e-37, 1e30, 2**53 - 1)  # limits too far away to be worth a mention


def written(value: Any) -> str:
    """A value as the text of an input; a list is separated by commas, None is empty."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(written, value))
    return value if isinstance(value, str) else json.dumps(value).removesuffix(".0")


def paragraph(schema: Schema) -> str:
    """The first paragraph of the description, without its full stop: the others are details for the reference."""
    return " ".join(schema.get("description", "").split("\n\n")[0].replace("`", "").split()).removesuffix(".")


def help_of(schema: Schema) -> str:
    """The text below an input: description and limits."""
    said, limits = paragraph(schema), limits_of(schema.get("items", {}) if schema.get("type") == "array" else schema)
    said = said[:1].upper() + said[1:]
    return f"{said} ({limits})" if said and limits else said or limits


def limits_of(schema: Schema) -> str:
    """The limits of a number in words: 1 to 10 000; above 0; 0 to below 1. Empty where there are none."""
    if schema.get("type") not in ("integer", "number"):
        return ""
    low, above, high, below = (
        None if value in HARMLESS else value
        for value in map(schema.get, ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"))
    )
    begin = f"above {spaced(above)}" if above is not None else "" if low is None else spaced(low)
    end = f"below {spaced(below)}" if below is not None else "" if high is None else spaced(high)
    if begin and end:
        return f"{begin} to {end}"
    if begin:
        return f"{begin} or more" if above is None else begin
    return f"up to {end}" if end and below is None else end


def spaced(number: float) -> str:
    return f"{number:,}".replace(",", "\u202f")
