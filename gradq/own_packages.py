"""Which `api`, `shared` and `worker` gradq's processes import: those beside this package, whatever folder a process is
started in and whatever a user's project calls its own modules. A program that imports gradq is left alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("api", "gradq", "shared", "worker")
ROOT = str(Path(__file__).absolute().parents[1])


class OwnPackages:
    """Finds gradq's packages in ROOT, before the paths of `sys.path` are asked."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [ROOT], target) if name in NAMES else None


def prefer() -> None:
    """In this process, from here on."""
    if OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, OwnPackages)


def python(*arguments: str) -> list[str]:
    """This interpreter; -P keeps the folder that it is started in out of `sys.path`, in its own children too."""
    return [sys.executable, "-P", *arguments]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for the command of `python`, with a PYTHONPATH by which it imports gradq's own packages.

    PYTHONPATH stays as it is, unless a folder in it holds a package of the same name, or nothing but the folder that
    this process was started in leads to gradq: then ROOT comes first. It does so only then, since PYTHONPATH comes
    before the standard library.
    """
    given = env.get("PYTHONPATH")
    folders = [os.path.abspath(folder) for folder in given.split(os.pathsep)] if given else []  # an empty one is "."
    lasting = sys.path if sys.flags.safe_path else sys.path[1:]  # the first entry says how this process was started
    if next(filter(_holds_a_package, folders), ROOT if ROOT in lasting else None) == ROOT:
        return dict(env)
    return {**env, "PYTHONPATH": os.pathsep.join([ROOT, given] if given else [ROOT])}


def _holds_a_package(folder: str) -> bool:
    """Whether an import would take it from there: a folder without an __init__.py gives way to a package elsewhere."""
    found = (PathFinder.find_spec(name, [folder]) for name in NAMES)
    return any(spec is not None and spec.origin is not None for spec in found)
