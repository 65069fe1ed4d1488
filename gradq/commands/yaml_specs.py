"""YAML 1.2's core schema: `1e-3` and `0123` are decimal numbers, `0o17` and `0x1f` octal and hexadecimal ones; `1_000`,
`12:30:45`, `yes` and `2026-11-24` are strings. Keys that are given twice are errors. Loads plain values only, no Python
objects."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

LEFT_OUT = ("int", "float", "bool", "timestamp", "value")  # implicit types of YAML 1.1, removed or replaced below
INT = re.compile(r"^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
FLOAT = re.compile(r"^[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$")
BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
MOST_DIGITS = 1000
DEEPEST = 500
MOST_VALUES = 100_000  # in all documents of a file; aliases of aliases grow to billions in a few lines
TAB_OF_PYYAML = "found character '\\t' that cannot start any token"
TAB = "a tab before or after a value; use spaces"
TAG = "tag:yaml.org,2002:"


class Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeLoader, but refuses a key that is given twice, as the service does in JSON."""
        if isinstance(node, yaml.MappingNode):  # for others, the base class raises
            given = set()
            for key, _ in node.value:
                name = _json_name(key.value if key.tag == f"{TAG}merge" else self.construct_object(key, deep=True))
                if name in given:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {name} is given twice", problem_mark=key.start_mark
                    )
                given.add(name)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """As SafeLoader, but keys that merges (`<<`) repeat are kept once, as the value has them: a chain of merges
        that name their anchor twice would double with each line."""
        super().flatten_mapping(node)
        pairs: dict[Any, tuple[Any, Any]] = {}
        for pair in node.value:  # a later pair replaces an earlier one, as in the dict that is made of them
            key = pair[0]
            pairs[(key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)] = pair
        node.value = list(pairs.values())

    def construct_scalar(self, node: Any) -> Any:
        """As SafeLoader, but a character may be written as a surrogate pair, as in JSON; half of one is an error."""
        text = super().construct_scalar(node)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16") if isinstance(text, str) else text
        except UnicodeDecodeError as error:
            raise yaml.constructor.ConstructorError(
                problem="half a surrogate pair is no character", problem_mark=node.start_mark
            ) from error

    def number(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if not INT.match(text):
            raise yaml.constructor.ConstructorError(problem=f"{text} is not an integer", problem_mark=node.start_mark)
        if len(text) > MOST_DIGITS:  # far beyond any field, and more than Python writes
            problem = f"a number of {len(text)} digits; at most {MOST_DIGITS} are read"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _json_name(key: Any) -> str:
    """The key as the name of a JSON field, so that `1` and `"1"` are one name."""
    try:
        return json.dumps(key if isinstance(key, str) else json.dumps(key), ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(key)  # a list or a date; refused when the spec is sent


Loader.yaml_implicit_resolvers = {
    first: [(tag, how) for tag, how in resolvers if tag.removeprefix(TAG) not in LEFT_OUT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(f"{TAG}int", INT, list("-+0123456789"))
Loader.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+.0123456789"))
Loader.add_implicit_resolver(f"{TAG}bool", BOOL, list("tTfF"))
Loader.add_constructor(f"{TAG}int", Loader.number)


class NotYaml(Exception):
    """The text is not valid YAML. `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, problem: str) -> None:
        super().__init__(problem)
        self.line, self.column, self.problem = line, column, problem


def documents(text: str) -> list[Any]:
    """The values of the documents in the text, which `---` separates. Raises NotYaml."""
    try:
        found = list(yaml.load_all(text, Loader))
        if _counted(found, MOST_VALUES) > MOST_VALUES:
            raise NotYaml(1, 1, f"more than {MOST_VALUES} values, with those that aliases repeat")
        return found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = TAB if error.problem == TAB_OF_PYYAML else error.problem
        raise NotYaml(line, column, problem or "cannot be read") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(line, error.position - text.rfind("\n", 0, error.position), error.reason) from error
    except (ValueError, OverflowError) as error:  # a number that Python cannot represent
        raise NotYaml(1, 1, str(error)) from error


def _counted(value: Any, most: int, depth: int = 0) -> int:
    """The number of values in it, those of an alias each time. Stops counting above `most`, and at a depth that is
    refused when the spec is sent, as of a value that contains itself."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    count = 1
    for part in parts:
        if count > most or depth > DEEPEST:
            break
        count += _counted(part, most - count, depth + 1)
    return count
