"""YAML 1.1 with fewer surprises: `1e-3` is a number, `2026-11-24` a string, and only true and false are booleans. Loads
plain values only, no Python objects."""

from __future__ import annotations

import re
from typing import Any

import yaml

LEFT_OUT = ("float", "bool", "timestamp")  # implicit types of YAML 1.1 that are removed or replaced below
FLOAT = re.compile(r"^[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$")
BOOL = re.compile(r"^(true|True|false|False)$")


class Loader(yaml.SafeLoader):
    pass


Loader.yaml_implicit_resolvers = {
    first: [(tag, how) for tag, how in resolvers if tag.rpartition(":")[2] not in LEFT_OUT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", BOOL, list("tTfF"))


class NotYaml(Exception):
    """The text is not valid YAML. `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, problem: str) -> None:
        super().__init__(problem)
        self.line, self.column, self.problem = line, column, problem


def documents(text: str) -> list[Any]:
    """The values of the documents in the text, which `---` separates. Raises NotYaml."""
    try:
        return list(yaml.load_all(text, Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise NotYaml(line, column, error.problem or "cannot be read") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(line, error.position - text.rfind("\n", 0, error.position), error.reason) from error
    except (ValueError, OverflowError) as error:  # a number that Python cannot represent
        raise NotYaml(1, 1, str(error)) from error
