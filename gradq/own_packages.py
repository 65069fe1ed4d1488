"""Makes gradq's processes import the `api`, `shared` and `worker` next to this package, whatever their current folder
is and whatever modules a user's project has. The import path of a program that imports gradq does not change."""

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
    """Finds gradq's packages in ROOT, before `sys.path` is searched."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [ROOT], target) if name in NAMES else None


def prefer() -> None:
    """Imports gradq's own packages in this process from now on."""
    if OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, OwnPackages)


def python(*arguments: str) -> list[str]:
    """A command line of this interpreter; its -P keeps the current folder out of `sys.path`."""
    return [sys.executable, "-P", *arguments]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """A copy of `env` whose PYTHONPATH lets the command of `python` import gradq's own packages.

    ROOT is put first if another folder of PYTHONPATH has a package of the same name, or if this process found gradq
    only through its current folder. Otherwise PYTHONPATH is unchanged, since it precedes the standard library.
    """
    given = env.get("PYTHONPATH")
    folders = [os.path.abspath(folder) for folder in given.split(os.pathsep)] if given else []  # an empty one is "."
    lasting = sys.path if sys.flags.safe_path else sys.path[1:]  # its first entry is the current folder or the script's
    if next(filter(_holds_a_package, folders), ROOT if ROOT in lasting else None) == ROOT:
        return dict(env)
    return {**env, "PYTHONPATH": os.pathsep.join([ROOT, given] if given else [ROOT])}


def _holds_a_package(folder: str) -> bool:
    """Whether it has a package with one of NAMES. A folder without an __init__.py does not count; imports skip it."""
    found = (PathFinder.find_spec(name, [folder]) for name in NAMES)
    return any(spec is not None and spec.origin is not None for spec in found)
