"""A wheel of the tracked files, two environments that it is installed in, and the service of one of them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installed import ROOT, Installed, closure, top_of, tracked
from support.waiting import wait_for

READY_SECONDS = 150


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by pip from a copy of the tracked files, in which Python has left its bytecode."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "src" / name)
    for package in ("gradq", "shared"):
        (folder / "src" / package / "__pycache__").mkdir()
        (folder / "src" / package / "__pycache__" / "left.cpython-311.pyc").touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-w", folder / "out", folder / "src"], check=True)
    (built,) = (folder / "out").glob("gradq-*.whl")
    return built


@pytest.fixture(scope="session")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """gradq[server]: the packages of this environment, and gradq from the wheel alone."""
    installed = Installed(tmp_path_factory.mktemp("server"), wheel)
    # folders of a .pth file are searched, but .pth files in them, such as an editable gradq's, are not read
    (installed.site / "running.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    return installed


@pytest.fixture(scope="session")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """gradq without extras: links to the files of the packages that its metadata requires, and nothing else."""
    installed = Installed(tmp_path_factory.mktemp("light"), wheel)
    required = [text for text in installed.distribution.requires or [] if "extra ==" not in text]
    for name in closure(required):
        for top, path in top_of(name):
            if not (installed.site / top).exists():
                (installed.site / top).symlink_to(path)
    return installed


@pytest.fixture(scope="session")
def url(server: Installed) -> Iterator[str]:
    """The address of `gradq up` of the wheel, started in an empty folder."""
    log = server.folder / "up.log"
    with log.open("wb") as out:
        command = [server.gradq, "up", "--port", "0", "--slots", "1", "--threads", "1"]
        process = subprocess.Popen(command, cwd=server.empty, env=server.env, stdout=out, stderr=out)

    def ready() -> str | None:
        assert process.poll() is None, log.read_text()
        return next((line[6:] for line in log.read_text().splitlines() if line.startswith("ready ")), None)

    try:
        yield wait_for(ready, READY_SECONDS, "`gradq up` to be ready") or ""
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
