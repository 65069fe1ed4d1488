"""scripts/install.sh on machines that lack something: it reports what, and how to get it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("cut", "dirname", "grep", "rm", "sh")


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """install(python3="…a shell script…"): run install.sh in a copy, with that PATH and no other."""
    folder, bin_ = tmp_path / "clone", tmp_path / "bin"
    (folder / "scripts").mkdir(parents=True)
    bin_.mkdir()
    shutil.copy(ROOT / "scripts" / "install.sh", folder / "scripts")
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (bin_ / tool).symlink_to(found)

    def run(*arguments: str, **programs: str) -> subprocess.CompletedProcess[str]:
        for name, text in programs.items():
            (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin_ / name).chmod(0o755)
        command = ["sh", str(folder / "scripts" / "install.sh"), *arguments]
        return subprocess.run(command, env={"PATH": str(bin_)}, capture_output=True, text=True, check=False)

    return run


# What a python3 answers: the version check, `import venv, ensurepip`, `import venv`, `-m pip`, `-m venv`.
def python3(new: bool = True, ensurepip: bool = True, venv: bool = True, pip: bool = True, venv_pip: int = 0) -> str:
    return f"""case "$*" in
*version_info*) exit {int(not new)};;
*ensurepip*) exit {int(not (ensurepip and venv))};;
*"import venv"*) exit {int(not venv)};;
"-V") echo "Python 3.9.2";;
"-m pip --version") exit {int(not pip)};;
"-m venv"*) mkdir -p .venv/bin
    printf '#!/bin/sh\\nexit {venv_pip}\\n' > .venv/bin/python; chmod +x .venv/bin/python;;
"-m pip --python"*) exit 0;;
esac"""


def test_no_python_at_all(install):
    result = install()
    assert result.returncode == 1
    assert "python3 is missing" in result.stderr
    assert "apt install python3" in result.stderr


def test_a_python_that_is_too_old(install):
    result = install(python3=python3(new=False))
    assert result.returncode == 1
    assert "needs Python 3.11 or newer, and python3 is 3.9.2" in result.stderr


def test_no_venv_module(install):
    result = install(python3=python3(venv=False))
    assert result.returncode == 1
    assert "venv module is missing" in result.stderr
    assert "python3-venv" in result.stderr


def test_neither_ensurepip_nor_pip(install):
    result = install(python3=python3(ensurepip=False, pip=False))
    assert result.returncode == 1
    assert "apt install python3-venv" in result.stderr


PIP = """case "$*" in
*--log*) while [ "$1" != --log ]; do shift; done; echo "$SAYS" > "$2"; exit 1;;
esac"""


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("NewConnectionError: Temporary failure in name resolution", "check the network connection"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("something else", "pip failed to install"),
    ],
)
def test_pip_that_fails_is_explained(install, tmp_path: Path, says, words):
    venv = tmp_path / "clone" / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f"#!/bin/sh\nSAYS='{says}'\n{PIP}\n")
    (venv / "python").chmod(0o755)
    result = install(python3=python3())
    assert result.returncode == 1
    assert words in result.stderr


@pytest.mark.parametrize("ensurepip", [True, False])
def test_a_machine_with_python_and_pip_is_enough(install, tmp_path: Path, ensurepip):
    for tool in ("mkdir", "chmod"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    result = install(python3=python3(ensurepip=ensurepip))
    assert result.returncode == 0, result.stderr
    assert "installed; the command is .venv/bin/gradq" in result.stdout


@pytest.mark.parametrize(("arguments", "extras"), [((), "server"), (("dev",), "server,dev")])
def test_the_service_is_installed_and_not_the_client_alone(install, tmp_path: Path, arguments, extras):
    venv = tmp_path / "clone" / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n')
    (venv / "python").chmod(0o755)
    assert install(*arguments, python3=python3()).returncode == 0
    assert f" -c constraints.txt -e .[{extras}]\n" in (tmp_path / "asked").read_text()
