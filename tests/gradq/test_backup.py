"""`gradq backup` and `gradq restore`: files, folders, pipes, bars, messages and exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.signals import default_hangup
from support.waiting import wait_for
from typer.testing import CliRunner, Result

from gradq.cli import app
from gradq.commands import backup as module
from gradq.local.instance import only_one
from shared.artifacts import ArtifactStore

FILES = {"model.json": b"{}" * 5000, "metrics.csv": b"1,2\n" * 5000}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may use the database of the developer's environment."""
    for name in [name for name in os.environ if name.startswith("GRADQ_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def served(api: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service with a finished job, named by the settings as for any other verb that looks at rows and files."""
    monkeypatch.setenv("GRADQ_STATE_DIR", str(api.settings.state_dir))
    api.submit(epochs=1)
    api.finish(api.start(), files=FILES)
    return api


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})


def saved(tmp_path: Path) -> Path:
    file = tmp_path / "gradq.tar"
    assert run("backup", str(file)).exit_code == 0
    return file


def words(result: Result) -> str:
    return " ".join(result.stderr.replace("│", " ").split())


def stored(state: Path) -> list[bytes]:
    store = ArtifactStore(f"file://{state / 'artifacts'}")
    return sorted(Path(path).read_bytes() for path in store.fs.find(store.root))


# --- backup -----------------------------------------------------------------------------------------------------------


def test_a_backup_is_one_file_that_this_user_alone_may_read(served: Any, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    result = run("backup", str(folder / "gradq.tar"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{folder / 'gradq.tar'}: 1 job, 0 datasets, 2 files, 30.0 kB\n"
    assert os.listdir(folder) == ["gradq.tar"]
    assert stat.S_IMODE((folder / "gradq.tar").stat().st_mode) == 0o600
    assert not list(served.settings.state_dir.glob("backup-*"))


def test_a_folder_gets_a_file_named_by_the_time(served: Any, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    result = run("backup", str(folder), "--json")
    said = json.loads(result.stdout)
    assert re.fullmatch(r"gradq-\d{8}-\d{6}\.tar", os.path.basename(said["file"]))
    assert os.listdir(folder) == [os.path.basename(said["file"])]
    assert (said["object"], said["rows"]["jobs"], said["files"], said["left_out"]) == ("backup", 1, 2, [])


def test_an_older_backup_is_replaced_and_nothing_else_is(served: Any, tmp_path: Path) -> None:
    file = saved(tmp_path)
    first = file.read_bytes()
    served.submit()
    assert run("backup", str(file)).exit_code == 0
    assert file.read_bytes() != first
    letter = tmp_path / "letter.tar"
    letter.write_text("dear ada")
    result = run("backup", str(letter))
    assert (result.exit_code, letter.read_text()) == (2, "dear ada")
    assert "exists and is not a backup of gradq" in words(result)


def test_a_backup_that_fails_leaves_the_older_one_and_no_part(
    served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    file = saved(folder)
    first = file.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    result = run("backup", str(file))
    assert (result.exit_code, result.stderr) == (
        1,
        "gradq: the backup was not made: [Errno 28] No space left on device\n",
    )
    assert file.read_bytes() == first
    assert os.listdir(folder) == ["gradq.tar"]


def test_a_file_that_the_store_has_lost_is_named_and_the_exit_code_tells(served: Any, tmp_path: Path) -> None:
    lost = next((served.settings.state_dir / "artifacts").rglob("model.json"))
    lost.unlink()
    result = run("backup", str(tmp_path / "gradq.tar"))
    assert result.exit_code == 1
    assert result.stderr.endswith("/1/model.json, lost by the artifact store\n")
    assert result.stderr.startswith("left out: artifacts job_")
    assert "1 job, 0 datasets, 1 file, 20.0 kB" in result.stdout


def test_where_no_service_lives_nothing_is_made(tmp_path: Path) -> None:
    result = run("backup", str(tmp_path / "gradq.tar"), "--state", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "does not exist" in result.stderr
    assert "--state or GRADQ_STATE_DIR" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_terminal_is_no_place_for_a_backup(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_terminal", lambda file: True)
    result = run("backup", "-")
    assert result.exit_code == 2
    assert "pipe the output of -" in words(result)


def test_in_a_terminal_a_bar_follows(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr(module, "PlainConsole", lambda **_: terminal)
    saved(tmp_path)
    assert "saving" in drawn.getvalue()
    assert "30.0/30.0 kB" in drawn.getvalue()


# --- restore ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_restored_and_says_what_is_there(served: Any, tmp_path: Path) -> None:
    served.submit()
    file, state = saved(tmp_path), tmp_path / "new"
    result = run("restore", str(file), "--state", str(state))
    assert result.exit_code == 0, result.output
    first, second, third = result.stdout.splitlines()
    assert first == "restored 2 jobs, 0 datasets, 2 files, 30.0 kB"
    assert re.fullmatch(r"as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: 1 queued, 1 succeeded", second)
    assert third == "Start the service to run the queued jobs."
    assert stored(state) == sorted(FILES.values())
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {path.name for path in state.iterdir()} <= {
        "gradq.db",
        "gradq.db-wal",
        "gradq.db-shm",
        "artifacts",
        "up.lock",
    }


def test_json_says_the_same(served: Any, tmp_path: Path) -> None:
    result = run("restore", str(saved(tmp_path)), "--state", str(tmp_path / "new"), "--json")
    said = json.loads(result.stdout)
    assert (said["object"], said["jobs"], said["files"]) == ("restored", {"succeeded": 1}, 2)


def test_a_place_with_jobs_is_refused_with_the_way_out(served: Any, tmp_path: Path) -> None:
    result = run("restore", str(saved(tmp_path)))
    assert result.exit_code == 1
    assert "GRADQ_STATE_DIR" in result.stderr
    assert len(list(served.client.jobs())) == 1


def test_a_folder_that_a_service_uses_is_refused(served: Any, tmp_path: Path) -> None:
    file, state = saved(tmp_path), tmp_path / "new"
    state.mkdir()
    with only_one(state, "http://127.0.0.1:1"):
        result = run("restore", str(file), "--state", str(state))
    assert result.exit_code == 1
    assert "is in use by" in result.stderr
    assert not (state / "artifacts").exists()


@pytest.mark.parametrize("content", [None, b"hello"])
def test_what_is_no_backup_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "gradq.tar"
    if content is not None:
        file.write_bytes(content)
    result = run("restore", str(file), "--state", str(tmp_path / "new"))
    assert result.exit_code == 1
    assert result.stderr.startswith("gradq: ")
    assert "Traceback" not in result.output


# --- pipes ------------------------------------------------------------------------------------------------------------


def process(*arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    with default_hangup():
        return subprocess.Popen([sys.executable, "-m", "gradq", *arguments], stderr=subprocess.PIPE, **more)


def test_a_backup_goes_through_a_pipe(served: Any, tmp_path: Path) -> None:
    state = tmp_path / "new"
    made = process("backup", "-", stdout=subprocess.PIPE)
    put_back = process("restore", "-", "--state", str(state), stdin=made.stdout, stdout=subprocess.PIPE)
    assert made.stdout is not None
    made.stdout.close()
    out, err = put_back.communicate(timeout=150)
    assert (put_back.returncode, made.wait(60)) == (0, 0), err
    assert out.startswith(b"restored 1 job, ")
    assert made.communicate()[1] == b"the backup: 1 job, 0 datasets, 2 files, 30.0 kB\n"
    assert stored(state) == sorted(FILES.values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_restore_that_is_told_to_stop_leaves_nothing_behind(
    served: Any, tmp_path: Path, number: signal.Signals
) -> None:
    content, state = saved(tmp_path).read_bytes(), tmp_path / "new"
    restore = process("restore", "-", "--state", str(state), stdin=subprocess.PIPE)
    assert restore.stdin is not None
    restore.stdin.write(content[: len(content) * 2 // 3])
    restore.stdin.flush()
    wait_for(lambda: state.is_dir() and list(state.glob("artifacts/job_*/*/*")), 30, "the first file")
    restore.send_signal(number)
    assert restore.wait(30) == 128 + number
    restore.stdin.close()
    assert not stored(state)
    assert not list(state.glob("restore-*"))
    assert run("restore", str(tmp_path / "gradq.tar"), "--state", str(state)).exit_code == 0


@pytest.mark.parametrize("verb", ["restore", "backup"])
def test_the_error_of_a_store_is_one_sentence_without_its_password(served, tmp_path, monkeypatch, verb):
    file = saved(tmp_path)
    monkeypatch.setenv(
        "GRADQ_STATE_DIR", str(tmp_path / "other") if verb == "restore" else str(served.settings.state_dir)
    )
    monkeypatch.setenv("GRADQ_ARTIFACTS_URL", "s3://key:hush@bucket")
    refuse = raising_in("botocore.client", RuntimeError("Bucket create failed 'key:hush@bucket'"))
    monkeypatch.setattr("shared.artifacts.ArtifactStore.__init__", refuse)
    for more in ([], ["--json"]):
        result = run(verb, str(file if verb == "restore" else tmp_path / "new.tar"), *more)
        assert result.exit_code == 1
        assert "hush" not in result.output
        assert "RuntimeError: Bucket create failed 'key:***@bucket'" in result.output
        assert "Traceback" not in result.output


def test_an_error_of_our_own_keeps_its_traceback(served, tmp_path, monkeypatch):
    monkeypatch.setattr("shared.artifacts.ArtifactStore.__init__", raising_in("gradq.backup.save", KeyError("ours")))
    assert isinstance(run("backup", str(tmp_path / "new.tar")).exception, KeyError)


def raising_in(module: str, error: Exception) -> Any:
    """A function that seems to be in that module."""
    names: dict[str, Any] = {"__name__": module, "error": error}
    exec("def refuse(*_):\n    raise error", names)
    return names["refuse"]
