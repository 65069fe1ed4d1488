"""The verbs that run parts of the service: public addresses, one service per folder, folders of killed workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support.disk import SmallDisk, why_no_disks
from support.people import expire, token_for
from support.place import sqlite_place_in
from typer.testing import CliRunner, Result

from gradq.cli import app
from gradq.commands.backup import _ended_in_order
from gradq.commands.up import _say_json
from gradq.local import folders
from gradq.local.embedded import Stop, _signals_to
from gradq.local.folders import for_sockets, private
from gradq.local.instance import AlreadyRunning, only_one
from gradq.local.listener import address_of, listen
from gradq.local.public_address import require_a_token
from gradq.local.worker_tmp import own_tmp, remove, sweep
from shared import heartbeat
from shared.config import Settings
from shared.db.database import Database
from shared.db.migrate import known
from shared.errors import ConfigurationError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.10"])
def test_loopback_needs_no_permission(host, tmp_path: Path):
    assert not refused(Settings(state_dir=tmp_path), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_any_other_address_is_refused_until_it_is_accepted(host, tmp_path: Path):
    for setting in (None, False):
        with pytest.raises(ConfigurationError, match="GRADQ_ALLOW_ANONYMOUS"):
            require_a_token(host, Settings(state_dir=tmp_path, allow_anonymous=setting))
    require_a_token(host, Settings(state_dir=tmp_path, allow_anonymous=True))


def test_an_address_that_others_reach_is_taken_with_a_token_that_is_good(tmp_path: Path):
    settings = Settings(state_dir=tmp_path)
    assert refused(settings)
    assert not list(tmp_path.iterdir()), "looking for a token makes no database"
    database = Database(settings.database)
    assert refused(settings), "a database without a table"
    database.migrate()
    assert refused(settings)
    token = token_for(database, "alice", name="laptop")
    assert not refused(settings)
    expire(database, token)
    assert refused(settings)
    database.close()
    assert not refused(Settings(state_dir=tmp_path, admin_token="x" * 32))


def refused(settings: Settings, host: str = "0.0.0.0") -> bool:
    try:
        require_a_token(host, settings)
    except ConfigurationError as error:
        assert "gradq token create" in error.detail
        return True
    return False


@pytest.mark.parametrize("verb", ["api", "up"])
def test_the_commands_refuse_before_anything_starts(verb, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("GRADQ_ALLOW_ANONYMOUS", raising=False)
    result = CliRunner().invoke(app, [verb, "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "not a loopback address" in result.stderr
    assert not (tmp_path / "state").exists()


def test_a_port_in_use_is_named_with_the_way_out():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*--port"), listen("127.0.0.1", port):
            pass


def test_the_second_service_in_a_folder_is_told_who_holds_it(tmp_path: Path):
    with (
        only_one(tmp_path, "http://127.0.0.1:1"),
        pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}, http://127.0.0.1:1"),
        only_one(tmp_path, "http://127.0.0.1:2"),
    ):
        pass
    with only_one(tmp_path, "http://127.0.0.1:2"):
        pass


def test_migrate_makes_the_tables_and_may_run_again(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("GRADQ_DATABASE_URL", raising=False)
    for _ in range(2):
        assert CliRunner().invoke(app, ["migrate"]).exit_code == 0
    schema = json.loads(CliRunner().invoke(app, ["migrate", "--json"]).stdout)
    assert schema == {"object": "schema", "revision": known()[-1]}
    assert (tmp_path / "gradq.db").is_file()


def test_up_says_its_lines_as_json_where_that_is_asked_for(capsys):
    for line in ("state   /somewhere", "ready http://127.0.0.1:8080"):
        _say_json(line)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [
        {"message": "state   /somewhere", "ready": None},
        {"message": "ready http://127.0.0.1:8080", "ready": "http://127.0.0.1:8080"},
    ]


def test_migrate_gives_up_on_a_database_that_stays_away(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("GRADQ_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    result = CliRunner().invoke(app, ["migrate", "--wait", "0.2"])
    assert result.exit_code == 1
    assert result.stderr.startswith("gradq: ")


def test_a_wrong_setting_is_named(monkeypatch):
    monkeypatch.setenv("GRADQ_SLOTS", "none")
    result = CliRunner().invoke(app, ["worker"])
    assert result.exit_code == 2
    assert "GRADQ_SLOTS" in result.stderr


def test_a_worker_keeps_its_own_tmp_and_sweeps_those_of_the_dead(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(folders, "SOCKET_PATH_BYTES", 200)
    code = (
        "from gradq.local import folders; folders.SOCKET_PATH_BYTES = 200; from pathlib import Path\n"
        f"from gradq.local.worker_tmp import own_tmp; print(own_tmp(Path({str(tmp_path)!r})))"
    )
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert Path(dead).is_dir()
    first = own_tmp(tmp_path)
    assert not Path(dead).exists()
    second = own_tmp(tmp_path)
    assert first.is_dir()
    assert second.is_dir()
    assert first != second
    sweep(tmp_path)
    assert first.is_dir(), "its worker is alive"


def test_a_folder_of_another_user_is_refused(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="not a folder of this user"):
        private(tmp_path / "link")


def test_a_folder_whose_sockets_fit_is_used_as_it_is(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(folders, "SOCKET_PATH_BYTES", len(str(tmp_path / "here")) + 11)
    assert for_sockets(tmp_path / "here", 10) == tmp_path / "here"
    assert for_sockets(tmp_path / "here", 10).stat().st_mode & 0o777 == 0o700


def test_migrate_goes_to_the_newest_revision_and_to_any_other(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("GRADQ_DATABASE_URL", raising=False)
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path))

    def migrate(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["migrate", *arguments])

    first, newest = known()[0], known()[-1]
    assert migrate("--to", first).stdout == f"the database is at an older schema, {first}\n"
    assert migrate().stdout == f"the database is at the newest schema, {newest}\n"
    assert migrate("--to", first).exit_code == 0
    wrong = migrate("--to", "none")
    assert (wrong.exit_code, f"this version of gradq has {first}, " in wrong.stderr) == (2, True)


def test_migrate_to_a_revision_is_refused_while_a_worker_lives(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("GRADQ_DATABASE_URL", raising=False)
    with sqlite_place_in(tmp_path) as place:
        place.database.migrate()
        place.beat()
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path))
    result = CliRunner().invoke(app, ["migrate", "--to", known()[0]])
    assert (result.exit_code, "stop the service first" in result.stderr) == (2, True)
    assert CliRunner().invoke(app, ["migrate"]).exit_code == 0


@pytest.mark.long
def test_an_api_that_is_stopped_ends_with_0_and_one_that_cannot_start_does_not(tmp_path: Path):
    """Its processes end without unloading their modules, which must not change their exit codes."""
    database = Database(f"sqlite:///{tmp_path / 'gradq.db'}")
    database.migrate()
    database.close()

    def start(**settings: str) -> subprocess.Popen[str]:
        env = {**os.environ, "GRADQ_STATE_DIR": str(tmp_path), **settings}
        command = [sys.executable, "-m", "gradq", "api", "--port", "0", "--workers", "1"]
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    with start() as works:
        assert works.stderr is not None
        next(line for line in works.stderr if "Booting worker" in line)
        works.terminate()
        said = works.stderr.read()
        assert (works.wait(60), "Shutting down" in said) == (0, True), said
    with start(GRADQ_ARTIFACTS_URL="zip://x") as fails:
        _, said = fails.communicate(timeout=60)
        assert (fails.returncode, "Worker failed to boot" in said) == (3, True), said


@pytest.mark.parametrize("verb", ["api", "up"])
def test_a_port_in_use_is_one_sentence_of_either_verb(verb: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path / "state"))
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, [verb, "--port", str(port)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"gradq: cannot listen on 127.0.0.1:{port}: Address already in use; ")
    assert len(result.stderr.splitlines()) == 1


def test_a_worker_that_ends_leaves_no_tmp(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(folders, "SOCKET_PATH_BYTES", 200)
    first, second = own_tmp(tmp_path), own_tmp(tmp_path)
    (first / "pymp-x").mkdir()
    remove(first)
    assert [folder.name for folder in (tmp_path / "tmp").iterdir()] == [second.name]
    remove(first)  # has no effect
    remove(second)
    assert not (tmp_path / "tmp").exists()


@pytest.mark.parametrize("ends", ["pass", "raise SystemExit(0)", "raise SystemExit(1)", "1 / 0"])
def test_a_worker_process_removes_its_tmp_and_its_heartbeat_however_it_ends(tmp_path: Path, ends: str):
    program = (
        "import os, sys, tempfile; from pathlib import Path; from gradq.local import program, worker_process\n"
        "from shared import heartbeat; state = Path(os.environ['GRADQ_STATE_DIR'])\n"
        "def run(*_):\n"
        "    print(os.environ['TMPDIR'], *(beat.rounds for beat in heartbeat.of_host(state)), flush=True)\n"
        f"    {ends}\n"
        "program.run = run\nworker_process.main()"
    )
    env = {**os.environ, "GRADQ_STATE_DIR": str(tmp_path / "s")}
    ran = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    tmp, rounds = ran.stdout.split()
    assert rounds == "0"
    assert not Path(tmp).exists()
    assert heartbeat.of_host(tmp_path / "s") == []
    assert not heartbeat._place(tmp_path / "s").exists()


# --- full disks, and folders in the way -------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk without room, whose state folder exists."""
    if (why := why_no_disks()) is not None:
        pytest.skip(why)
    disk = SmallDisk(tmp_path / "disk", 1)
    (disk.path / "state").mkdir(mode=0o700)
    disk.fill()
    yield disk
    disk.unmount()


def test_a_full_disk_is_named_with_the_path(full: SmallDisk, monkeypatch):
    state = full.path / "state"
    monkeypatch.setenv("GRADQ_STATE_DIR", str(state))
    monkeypatch.delenv("GRADQ_DATABASE_URL", raising=False)
    monkeypatch.setattr("shared.db.database.WAL_RETRY_SECONDS", "no retry")  # time.sleep raises a TypeError
    verbs = ((["migrate"], "gradq.db"), (["up", "--port", "0"], "up.lock"), (["token", "create", "a"], "gradq.db"))
    for verb, file in verbs:
        result = CliRunner().invoke(app, verb)
        assert result.exit_code == 1
        assert str(state / file) in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1
        (state / "gradq.db").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("verb", "folder"),
    [
        ("up", "up.lock"),
        ("up", "gradq.db"),
        ("up", "broker/redis.sock"),
        ("migrate", "gradq.db"),
        ("up", "logs/worker.log"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_named(verb: str, folder: str, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="gq-") as name:
        (Path(name) / folder).mkdir(parents=True)
        monkeypatch.setenv("GRADQ_STATE_DIR", name)
        monkeypatch.delenv("GRADQ_DATABASE_URL", raising=False)
        result = CliRunner().invoke(app, [verb, "--port", "0"] if verb == "up" else [verb])
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("gradq: ")
    assert f"{name}/{folder}" in result.stderr


@pytest.mark.parametrize("handling", [lambda: _signals_to(Stop()), lambda: _ended_in_order("ended")])
@pytest.mark.parametrize("ignored", [True, False])
def test_a_hangup_that_is_ignored_from_the_start_stays_ignored(
    handling: Callable[[], AbstractContextManager[None]], ignored: bool
):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with handling():
            assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == ignored
            assert callable(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGHUP, before)
