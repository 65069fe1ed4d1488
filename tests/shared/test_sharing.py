"""Each module of `shared` is used by at least two of api, worker and gradq, directly or through other modules of
`shared`. A module with one user belongs to that user."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIDES = ("api", "worker", "gradq")
EVERYWHERE = {"shared", "shared.db.migrations.env"}  # the root package; Alembic's entry point


def modules() -> dict[str, Path]:
    found = (path.relative_to(ROOT) for side in (*SIDES, "shared") for path in (ROOT / side).rglob("*.py"))
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in found}


def imports_of(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else node.module


def sides_of_each_module() -> dict[str, set[str]]:
    known = modules()
    imports = {name: set(imports_of(path, known)) for name, path in known.items()}
    sides: dict[str, set[str]] = {name: set() for name in known if name.startswith("shared")}
    for name in known:
        side = name.partition(".")[0]
        if side not in SIDES:
            continue
        reached, ahead = set(), [name]
        while ahead:
            for target in imports[ahead.pop()]:
                if target in sides and target not in reached:
                    reached.add(target)
                    ahead.append(target)
        for target in reached:
            sides[target].add(side)
    return sides


def test_every_module_of_shared_is_used_by_two_sides():
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    lonely = {
        name: sides
        for name, sides in sides_of_each_module().items()
        if len(sides) < 2 and name not in EVERYWHERE | packages and ".versions." not in name
    }
    assert not lonely, "move each of these to its user"


def test_a_module_with_one_user_would_be_found():
    assert sides_of_each_module()["shared.errors"] == set(SIDES)
    assert modules().keys() >= {"api.app", "worker.app", "gradq.cli"}
