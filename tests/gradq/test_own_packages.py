"""gradq in a project that has a `shared`, an `api` and a `worker` of its own: each gets its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.waiting import wait_for

from gradq import Client, own_packages
from gradq.own_packages import ROOT

HOSTILE = "raise SystemExit(f'{__name__} is the project, not gradq')\n"
OURS = ("api", "shared", "worker")
THEIRS = ("celery", "flask", "gunicorn", "redis", "sqlalchemy", "structlog", "torch", "typer")
READY_SECONDS = 150
Run = Callable[..., subprocess.CompletedProcess[str]]


def hostile(folder: Path, names: tuple[str, ...]) -> Path:
    """A folder whose modules must not be imported by gradq."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(HOSTILE)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Has packages with the names of gradq's, and of those that gradq needs, and a module `shared`."""
    folder = hostile(tmp_path / "project", (*OURS, *THEIRS))
    (folder / "shared.py").write_text(HOSTILE)
    return folder


@pytest.fixture(params=["nothing", "here", "another project"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """PYTHONPATH leads to gradq; before that to the current folder, as an empty part does; or to another project."""
    before = {"nothing": [], "here": [""], "another project": [str(hostile(tmp_path / "other", OURS))]}[request.param]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("GRADQ_", "PYTHON"))}
    path = os.pathsep.join([*before, ROOT])
    return {**outside, "PYTHONPATH": path, "GRADQ_STATE_DIR": str(tmp_path / "state"), "GRADQ_DOWNLOAD": "false"}


@pytest.fixture
def run(project: Path, env: dict[str, str]) -> Run:
    """run("-c", "…"): a new Python in the project's folder."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=project, env={**env, **more}, capture_output=True, text=True, timeout=60)

    return run


def test_the_library_leaves_the_projects_modules_to_the_project(run: Run):
    assert run("-c", "import gradq; print(gradq.Client.__name__)").stdout == "Client\n"
    ended = run("-c", "from gradq import Client; Client('http://127.0.0.1:1'); import shared")
    assert "shared is the project, not gradq" in ended.stderr


@pytest.mark.parametrize("env", ["nothing", "another project"], indirect=True)
def test_the_command_is_not_misled(run: Run, api):
    waiting = api.submit()
    assert run("-m", "gradq", "--help").stdout.startswith("Usage: ")
    listed = run("-m", "gradq", "ps", GRADQ_URL=api.url)
    assert waiting in listed.stdout, listed.stderr
    migrated = run("-m", "gradq", "migrate")
    assert migrated.stdout.startswith("the database is at the newest schema"), migrated.stderr


@pytest.mark.long
@pytest.mark.parametrize("env", ["nothing", "another project"], indirect=True)
def test_a_service_that_is_started_in_a_project_trains(project: Path, env: dict[str, str], tmp_path: Path):
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "gradq", "up", "--port", "0", "--slots", "1", "--threads", "1"]
        process = subprocess.Popen(command, cwd=project, env=env, stdout=out, stderr=out)

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        return next((line[6:] for line in log.read_text().splitlines() if line.startswith("ready ")), None)

    try:
        with Client(wait_for(address, READY_SECONDS, "`gradq up` to be ready")) as client:
            job = client.submit(dataset="digits", epochs=1, gradients="manual").wait(timeout=120, check=True)
            assert job["result"]["gradient_check"]["passed"] is True
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    logs = "".join(path.read_text() for path in (tmp_path / "state" / "logs").iterdir())
    assert "is the project" not in logs


# --- what a child process gets ----------------------------------------------------------------------------------------


def test_a_path_that_leads_to_gradq_stays_as_it_is(tmp_path: Path):
    (tmp_path / "shared").mkdir()  # data, and no package
    for path in (ROOT, os.pathsep.join([str(tmp_path), ROOT]), os.pathsep.join([ROOT, str(tmp_path)])):
        assert own_packages.environment({"PYTHONPATH": path, "A": "b"}) == {"PYTHONPATH": path, "A": "b"}


def test_gradq_comes_before_a_project_of_the_same_names(project: Path, monkeypatch: pytest.MonkeyPatch):
    first = os.pathsep.join([str(project), ROOT])
    assert own_packages.environment({"PYTHONPATH": first})["PYTHONPATH"] == os.pathsep.join([ROOT, first])
    monkeypatch.chdir(project)
    for here in ("", "."):
        path = os.pathsep.join([here, "/nowhere"])
        assert own_packages.environment({"PYTHONPATH": path})["PYTHONPATH"] == os.pathsep.join([ROOT, path])


def test_gradq_is_found_where_only_the_folder_it_was_started_in_led_to_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [ROOT, "/nowhere"])
    assert own_packages.environment({}) == {"PYTHONPATH": ROOT}
    monkeypatch.setattr(sys, "path", ["", "/nowhere", ROOT])
    assert own_packages.environment({}) == {}
