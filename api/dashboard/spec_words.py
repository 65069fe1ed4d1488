"""What a field of the spec says of itself in the form: its words, its limits, its value as it stands in an input."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]

HARMLESS = (1e-37, 1e30, 2**53 - 1)  # limits that nobody meets, and that would only be noise


def written(value: Any) -> str:
    """As it stands in an input."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(written, value))
    return value if isinstance(value, str) else json.dumps(value).removesuffix(".0")


def paragraph(schema: Schema) -> str:
    """The first one of its description: the others are for those who read on."""
    return " ".join(schema.get("description", "").split("\n\n")[0].replace("`", "").split()).removesuffix(".")


def help_of(schema: Schema) -> str:
    said, limits = paragraph(schema), limits_of(schema.get("items", {}) if schema.get("type") == "array" else schema)
    said = said[:1].upper() + said[1:]
    return f"{said} ({limits})" if said and limits else said or limits


def limits_of(schema: Schema) -> str:
    """1 to 10 000; above 0; 0 to below 1"""
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
