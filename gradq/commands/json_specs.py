"""JSON as the service reads it: a key that is given twice in an object is an error."""

from __future__ import annotations

import json
import re
from typing import Any

LONE_SURROGATE = re.compile(  # in a JSON text; a character beyond U+FFFF is written as a pair
    r"\\u[dD][89abAB][\da-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][\da-fA-F]{2})\\u[dD][c-fC-F][\da-fA-F]{2}"
)
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]')


class NotJson(ValueError):
    """The text is not JSON. `line` and `column` count from 1; `repeated`: JSON, but with a key that is given twice."""

    def __init__(self, line: int, column: int, problem: str, repeated: bool = False) -> None:
        super().__init__(f"{problem} at line {line}, column {column}")
        self.line, self.column, self.problem, self.repeated = line, column, problem, repeated


def value_of_json(text: str) -> Any:
    """The value of a JSON text. Raises NotJson, RecursionError."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise NotJson(error.lineno, error.colno, error.msg) from error
    except ValueError as error:  # a number of thousands of digits
        raise NotJson(1, 1, str(error)) from error
    found = _repeated_key(text)
    if found is not None:
        name, at = found
        raise NotJson(*_place(text, at), f"the key {name} is given twice", repeated=True)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = LONE_SURROGATE.search(text)
        raise NotJson(*_place(text, half.start() if half else 0), "half a surrogate pair is no character") from error
    return value


def _place(text: str, at: int) -> tuple[int, int]:
    """Line and column, from 1."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _repeated_key(text: str) -> tuple[str, int] | None:
    """The first key of valid JSON that its object has already, as written, and its position; None if there is none."""
    objects: list[set[str] | None] = []  # the names in each open object; None for an open list
    key: re.Match[str] | None = None
    for token in TOKEN.finditer(text):
        mark = token[0][0]
        if mark == '"':
            key = token
        elif mark == ":" and key is not None:
            names = objects[-1]
            name = json.loads(key[0])  # the same name may be written with escapes
            if names is not None and name in names:
                return key[0], key.start()
            if names is not None:
                names.add(name)
        elif mark in "{[":
            objects.append(set() if mark == "{" else None)
        elif mark in "}]":
            objects.pop()
    return None
