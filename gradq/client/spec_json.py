"""Converts a spec to plain JSON values; accepts the numbers and arrays of numpy, as sweeps produce them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gradq.client.problems import InvalidSpec

MOST_BITS = 3320  # about 1000 digits
NAMES = (str, int, float, bool, type(None))  # types of field names that json writes as strings


def as_json(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of dicts, lists and plain values. Raises InvalidSpec, which names each value that JSON cannot hold."""
    wrong: list[dict[str, str]] = []
    found = {}
    for field, value in spec.items():
        try:
            found[field] = _plain(value)
            wrong += _wrong(found[field], f"/{field}")
        except RecursionError:
            wrong.append({"pointer": f"/{field}", "code": "not_json", "detail": "is nested too deeply"})
    if wrong:
        count = "1 field is wrong" if len(wrong) == 1 else f"{len(wrong)} fields are wrong"
        raise InvalidSpec(422, "invalid_spec", count, wrong)
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a numpy number or array, a tensor
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _wrong(value: Any, pointer: str) -> Iterator[dict[str, str]]:
    """An error, with a JSON pointer, for each value that cannot be sent."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, NAMES) or list(_wrong(name, pointer)):
                yield {"pointer": pointer, "code": "not_json", "detail": f"{name!r} cannot be the name of a field"}
            yield from _wrong(part, f"{pointer}/{name}")
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from _wrong(part, f"{pointer}/{place}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield {"pointer": pointer, "code": "not_json", "detail": f"must be a finite number, got {value}"}
    elif isinstance(value, int) and value.bit_length() > MOST_BITS:
        yield {"pointer": pointer, "code": "not_json", "detail": "is a number of more than 1000 digits"}
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        yield {"pointer": pointer, "code": "not_json", "detail": f"is not Unicode text, got {value!r}"}
    elif not isinstance(value, NAMES):
        detail = f"must be a string, number, boolean, list or object, got a {type(value).__name__}"
        yield {"pointer": pointer, "code": "not_json", "detail": detail}
