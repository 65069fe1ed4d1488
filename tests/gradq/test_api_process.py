"""The API's process of `gradq up` migrates the database before it serves, and reports how that ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from shared.db.database import Database
from shared.db.revision import NEWEST_REVISION
from shared.db.schema_check import SchemaCheck

# runs the module with a reporting pipe, and an app that says what it is, and which of the two has Alembic
CODE = """
import sys
from gradq.local import api_process, program
program.run = lambda *command: print("runs", *command, "with" if "alembic" in sys.modules else "without", "alembic")
api_process.main(int(sys.argv[1]), "gunicorn")
"""


def migrated(state: Path, **settings: str) -> tuple[int, str, list[dict[str, str]]]:
    """Exit code, output and what was reported."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    env |= {"GRADQ_STATE_DIR": str(state), **settings}
    read, write = os.pipe()
    command = [sys.executable, "-c", CODE, str(write)]
    ended = subprocess.run(command, env=env, pass_fds=[write], capture_output=True, text=True, timeout=150)
    os.close(write)
    with os.fdopen(read) as pipe:
        return ended.returncode, ended.stdout, [json.loads(line) for line in pipe]


def test_a_new_database_is_migrated_by_a_process_of_its_own_and_an_old_one_is_left_alone(tmp_path: Path) -> None:
    for _ in range(2):
        assert migrated(tmp_path) == (0, "runs gunicorn without alembic\n", [{}])
    database = Database(f"sqlite:///{tmp_path / 'gradq.db'}")
    assert SchemaCheck(database).revision() == NEWEST_REVISION
    with database.read() as session:
        assert inspect(session.connection()).has_table("jobs")
    database.close()


def test_a_database_of_a_newer_version_is_reported_and_nothing_runs(tmp_path: Path) -> None:
    assert migrated(tmp_path)[0] == 0
    database = Database(f"sqlite:///{tmp_path / 'gradq.db'}")
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    database.close()
    code, output, [failure] = migrated(tmp_path)
    assert (code, output, failure["code"]) == (1, "", "configuration_error")
    assert "revision 0099" in failure["detail"]


def test_a_database_that_cannot_be_reached_or_made_is_reported(tmp_path: Path) -> None:
    away = "postgresql+psycopg://gradq:hush@127.0.0.1:1/gradq"
    code, output, [failure] = migrated(tmp_path, GRADQ_DATABASE_URL=away)
    assert (code, output, failure["code"]) == (1, "", "database_away")
    (tmp_path / "gradq.db").mkdir()
    code, output, [failure] = migrated(tmp_path)
    assert (code, output) == (1, "")
    assert str(tmp_path / "gradq.db") in failure["detail"]


@pytest.mark.parametrize("error", ["OSError(28, 'No space left on device', '/a/file')", "ValueError('of nobody')"])
def test_an_error_of_the_system_is_reported_and_any_other_is_in_the_log(tmp_path: Path, error: str) -> None:
    program = (
        "import sys\nfrom gradq.local import api_process\nfrom shared.db.database import Database\n"
        f"def migrate(_): raise {error}\nDatabase.migrate = migrate\napi_process.main(1, 'gunicorn')"
    )
    env = {**os.environ, "GRADQ_STATE_DIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=150)
    assert ended.returncode == 1
    if error.startswith("OSError"):
        assert json.loads(ended.stdout) == {"code": "os_error", "detail": "/a/file: No space left on device"}
    else:
        assert ended.stdout == ""
        assert "ValueError: of nobody" in ended.stderr
