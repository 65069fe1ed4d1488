"""gradq as pip installs it: in virtual environments that know nothing of this checkout. No network: what gradq depends
on is the running environment's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def tracked(*paths: str) -> list[str]:
    """The files that git tracks, and those that it would: a new module is in the wheel before it is committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *paths]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).exists()]


class Installed:
    """A virtual environment of its own with gradq from the wheel."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python, self.gradq = str(folder / "bin" / "python"), str(folder / "bin" / "gradq")
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        subprocess.run([*pip, "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel)], check=True)
        (self.site,) = folder.glob("lib/python*/site-packages")
        (metadata,) = self.site.glob("gradq-*.dist-info")
        self.distribution: Distribution = PathDistribution(metadata)
        self.empty = folder / "empty"
        self.empty.mkdir()

    @property
    def env(self) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("GRADQ_", "PYTHON"))}
        return {**outside, "GRADQ_STATE_DIR": str(self.folder / "state"), "GRADQ_DOWNLOAD": "false", "COLUMNS": "80"}

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """In a folder that holds nothing."""
        return subprocess.run(
            command, cwd=self.empty, env={**self.env, **env}, capture_output=True, text=True, timeout=150, check=False
        )


def closure(requirements: Iterable[str], extra: str = "") -> set[str]:
    """The distributions of this environment that the requirements ask for, and what those ask for in their turn."""
    found: set[str] = set()
    asked = [(text, extra) for text in requirements]
    while asked:
        text, extra = asked.pop()
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not wanted or name in found or name == "gradq":
            continue
        found.add(name)
        asked += [(inner, each) for inner in distribution(name).requires or [] for each in (*requirement.extras, "")]
    return found


def top_of(name: str) -> set[tuple[str, Path]]:
    """What a distribution has in site-packages: names and paths of its packages, modules and metadata."""
    there = distribution(name)
    tops = {file.parts[0] for file in there.files or [] if file.parts[0] not in ("..", "__pycache__")}
    return {(top, Path(str(there.locate_file(top)))) for top in tops}
