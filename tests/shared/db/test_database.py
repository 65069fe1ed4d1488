"""Both databases: migrations, concurrent readers and writers, and DatabaseAway for an unavailable database."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from support.postgres import Postgres, free_port

from shared.db import database as module
from shared.db.database import Database
from shared.db.tables import Base, Job
from shared.errors import ConfigurationError, DatabaseAway
from shared.jobs import jobs
from shared.spec.job_spec import JobSpec

TABLES = set(Base.metadata.tables)


def tables(database: Database) -> set[str]:
    with database.read() as session:
        return set(inspect(session.connection()).get_table_names())


def differences(database: Database) -> list[Any]:
    """The differences that Alembic finds between the schema and shared/db/tables.py."""
    with database.engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata)


def names(database: Database) -> list[str]:
    with database.read() as session:
        return [job.name for job in session.query(Job).order_by(Job.name)]


def submit(database: Database, name: str) -> None:
    with database.write() as session:
        jobs.create(session, JobSpec.parse({"name": name}))


# --- migrations -------------------------------------------------------------------------------------------------------


def test_migrating_from_nothing_makes_the_tables_of_the_code(empty_database: Database) -> None:
    assert tables(empty_database) == set()
    assert len(differences(empty_database)) >= len(TABLES)
    empty_database.migrate()
    assert tables(empty_database) == {*TABLES, "alembic_version"}
    assert differences(empty_database) == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    submit(database, "kept")
    database.migrate()
    assert differences(database) == []
    assert names(database) == ["kept"]


class Script:
    """A Python process that reports when it is ready, and continues on request."""

    def __init__(self, code: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.process.stdout.read()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=150)
        assert self.process.returncode == 0, out
        return out


@pytest.fixture
def scripts() -> Iterator[list[Script]]:
    """Starts processes, and kills those that are left at the end of the test."""
    started: list[Script] = []
    yield started
    for script in started:
        script.process.kill()
        script.process.communicate()


def run_together(scripts: list[Script], *calls: tuple[str, ...]) -> list[str]:
    scripts += [Script(*call) for call in calls]
    for script in scripts:
        script.wait_until_ready()
    for script in scripts:
        script.go()
    return [script.end() for script in scripts]


MIGRATE = """
import sys
from shared.db.database import Database
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
database.migrate()
"""


def test_processes_that_migrate_at_the_same_moment_do_it_once(empty_database: Database, scripts: list[Script]) -> None:
    run_together(scripts, *[(MIGRATE, empty_database.url)] * 3)
    assert differences(empty_database) == []


# --- readers and writers ----------------------------------------------------------------------------------------------


def test_a_write_is_whole_or_not_at_all(database: Database) -> None:
    class Stop(Exception):
        pass

    with pytest.raises(Stop), database.write() as session:
        jobs.create(session, JobSpec.parse({"name": "half"}))
        session.flush()
        raise Stop
    assert names(database) == []
    submit(database, "whole")
    assert names(database) == ["whole"]


def test_a_reader_does_not_block_a_writer_nor_a_writer_a_reader(database: Database) -> None:
    submit(database, "a")
    with database.read() as reader:
        assert reader.query(Job).count() == 1
        submit(database, "b")  # with the reader's transaction open
    with database.write() as writer:
        jobs.create(writer, JobSpec.parse({"name": "c"}))
        writer.flush()
        assert names(database) == ["a", "b"]  # with the writer's transaction open
    assert names(database) == ["a", "b", "c"]


def test_a_snapshot_is_of_one_moment_and_does_not_block_writers(database: Database) -> None:
    submit(database, "a")
    count = text("SELECT count(*) FROM events")
    with database.snapshot() as connection:
        assert connection.scalar(text("SELECT count(*) FROM jobs")) == 1
        submit(database, "b")
        assert names(database) == ["a", "b"]
        assert connection.scalar(count) == 1  # the other table is from the same snapshot
    with database.snapshot() as connection:
        assert connection.scalar(count) == 2


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'gradq.db'}")
    database.migrate()
    yield database
    database.close()


def test_sqlite_is_set_up_as_meant(sqlite: Database) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 1,  # NORMAL
        "foreign_keys": 1,
        "busy_timeout": 10_000,
        "wal_autocheckpoint": 0,
    }
    with sqlite.read() as first, sqlite.read() as second:  # two new connections
        for session in (first, second):
            assert {name: session.scalar(text(f"PRAGMA {name}")) for name in wanted} == wanted


def test_sqlite_s_writers_begin_immediately_and_its_readers_do_not(sqlite: Database) -> None:
    begun: list[str] = []
    event.listen(sqlite.engine, "before_cursor_execute", lambda *args: begun.append(args[2]))
    with sqlite.read() as session:
        session.execute(text("SELECT 1"))
    assert "BEGIN IMMEDIATE" not in begun
    with sqlite.write() as session:
        session.execute(text("SELECT 1"))
    assert begun[-2:] == ["BEGIN IMMEDIATE", "SELECT 1"]


def test_sqlite_s_log_is_folded_in_on_purpose_alone(sqlite: Database, tmp_path: Path) -> None:
    file, log = tmp_path / "gradq.db", tmp_path / "gradq.db-wal"
    before = file.read_bytes()
    for i in range(20):
        submit(sqlite, f"job {i}")
    assert file.read_bytes() == before
    assert log.stat().st_size > 0
    sqlite.checkpoint_wal()
    assert file.read_bytes() != before


HAMMER = """
import random, sys, time
from shared.jobs import jobs, queue
from shared.db.database import Database
from shared.jobs.joblog import Line
from shared.spec.job_spec import JobSpec
from shared.jobs.states import JobState
url, part, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
database = Database(url)
with database.read() as session:
    queue.waiting(session, {"auto"}, 1000)
print("ready", flush=True)
sys.stdin.readline()
end, done = time.monotonic() + seconds, 0
while time.monotonic() < end:
    if part == "write":
        with database.write() as session:
            queue.waiting(session, {"auto"}, 1000)  # reads, then writes: a deferred transaction would fail here
            jobs.create(session, JobSpec.parse({}))
        with database.write() as session:
            job = queue.claim(session, "w", "cpu", {"auto"}, 60)
        if job is not None:
            lease = queue.lease_of(job)
            with database.write() as session:
                queue.append(session, lease, [Line("log", "x" * 200, {})] * 5)
            with database.write() as session:
                queue.finish(session, lease, JobState.SUCCEEDED, "done")
    elif part == "read":
        with database.read() as session:
            waiting = queue.waiting(session, {"auto"}, 1000)
            assert waiting >= 0
            queue.expired_leases(session)
    else:
        database.checkpoint_wal()
        time.sleep(0.02)  # checkpoints at intervals, as the reconciler does
    done += 1
print(done)
"""


def test_writers_and_readers_of_several_processes_never_find_sqlite_locked(
    sqlite: Database, scripts: list[Script]
) -> None:
    parts = ["write", "write", "read", "read", "fold"]
    outputs = run_together(scripts, *[(HAMMER, sqlite.url, part, "3") for part in parts])
    rounds = [int(out) for out in outputs]  # end() has checked that each exited with 0, so without an error
    assert min(rounds) > 0
    with sqlite.read() as session:
        assert session.scalar(text("PRAGMA quick_check")) == "ok"
        assert session.query(Job).count() == rounds[0] + rounds[1]


# --- unsupported places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filesystem", ["nfs4", "cifs", "9p"])
def test_sqlite_on_a_network_filesystem_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filesystem: str
) -> None:
    monkeypatch.setattr(module, "filesystem_of", lambda path: filesystem)
    with pytest.raises(ConfigurationError, match=f"{tmp_path} is on {filesystem}.*GRADQ_STATE_DIR"):
        Database(f"sqlite:///{tmp_path / 'gradq.db'}")
    monkeypatch.setattr(module, "filesystem_of", lambda path: "ext4")
    Database(f"sqlite:///{tmp_path / 'gradq.db'}").close()


MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/ada/local ext4 rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
/dev/vdc /srv xfs rw 0 0
server:/srv /srv nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "filesystem"),
    [
        ("/var/lib/gradq", "ext4"),
        ("/home/ada/.local", "nfs4"),
        ("/home/ada/local/gradq", "ext4"),
        ("/homes/ada", "ext4"),
        ("/mnt/my share/gradq", "cifs"),
        ("/srv/gradq", "nfs"),  # mounted over the previous one
    ],
)
def test_the_filesystem_of_a_folder_is_that_of_the_nearest_mount(
    monkeypatch: pytest.MonkeyPatch, folder: str, filesystem: str
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: MOUNTS if self == Path("/proc/mounts") else "")
    assert module.filesystem_of(Path(folder)) == filesystem


def test_a_link_to_a_network_filesystem_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    mounts = f"/dev/vda / ext4 rw 0 0\nserver:/ {tmp_path / 'share'} nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self: mounts)
    with pytest.raises(ConfigurationError, match="nfs4"):
        Database(f"sqlite:///{tmp_path / 'link' / 'gradq.db'}")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///"])
def test_sqlite_in_memory_is_refused_since_several_processes_share_the_database(url: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a file"):
        Database(url)


def test_making_a_database_opens_no_connection(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'gradq.db'}").close()
    assert not (tmp_path / "gradq.db").exists()
    Database(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing").close()


# --- away -------------------------------------------------------------------------------------------------------------


def test_a_server_that_does_not_respond_is_database_away() -> None:
    database = Database(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing")
    for session_of in (database.read, database.write):
        with pytest.raises(DatabaseAway), session_of() as session:
            session.execute(text("SELECT 1"))
    with pytest.raises(DatabaseAway):
        database.migrate()


def test_a_file_that_cannot_be_opened_is_a_database_away(sqlite: Database, tmp_path: Path) -> None:
    sqlite.close()
    shutil.move(tmp_path / "gradq.db", tmp_path / "elsewhere")
    (tmp_path / "gradq.db").mkdir()
    with pytest.raises(DatabaseAway):
        names(sqlite)
    (tmp_path / "gradq.db").rmdir()
    shutil.move(tmp_path / "elsewhere", tmp_path / "gradq.db")
    assert names(sqlite) == []


def test_a_lock_that_is_held_for_longer_than_the_timeout_is_a_database_away(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 50)
    impatient = Database(sqlite.url)
    with sqlite.write() as holder:
        holder.execute(text("SELECT 1"))  # the transaction begins with the first statement
        with pytest.raises(DatabaseAway, match="locked"):
            submit(impatient, "now")
    submit(impatient, "later")
    impatient.close()


@pytest.mark.postgres
def test_a_connection_that_the_server_cuts_is_a_database_away_and_the_next_one_works(postgres: Postgres) -> None:
    database = Database(postgres.database())
    cut = text("SELECT pg_terminate_backend(:pid)")
    with pytest.raises(DatabaseAway), database.write() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        with database.read() as other:
            other.execute(cut, {"pid": pid})
        session.execute(text("SELECT 1"))
    with database.read() as first, database.read() as second:
        assert first.scalar(text("SELECT 1")) == second.scalar(text("SELECT 1"))  # now the pool holds two
    with database.read() as session:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        session.execute(text(f"{others} AND pid <> pg_backend_pid()"))
    with database.read() as first, database.read() as second:
        assert first.scalar(text("SELECT 1")) == second.scalar(text("SELECT 1"))  # the dead connection was replaced
    database.close()


@pytest.mark.postgres
def test_a_server_that_died_is_away_and_is_found_again_when_it_is_back() -> None:
    with Postgres() as own:
        database = Database(own.database())
        database.migrate()
        submit(database, "before")
        own.kill()
        with pytest.raises(DatabaseAway):
            names(database)
        own.start()
        assert names(database) == ["before"]
        database.close()


def test_a_wrong_statement_stays_the_error_that_it_is(database: Database) -> None:
    for statement in ("SELECT * FROM no_such_table", "SELEKT 1"):
        with pytest.raises(DBAPIError, match="no_such_table|SELEKT"), database.read() as session:
            session.execute(text(statement))


@pytest.mark.postgres
def test_a_silent_transaction_is_ended_after_a_timeout(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a worker that is stopped, or loses its network, between two statements."""
    database = Database(postgres.database())
    database.migrate()
    with database.write() as session:
        session.execute(text("INSERT INTO leaders VALUES ('office', 'a', now(), 1)"))
    monkeypatch.setattr(module, "SILENCE_MS", 300)  # only of the silent connection: the other may be slow
    hasty = Database(database.url)
    with pytest.raises(DatabaseAway), hasty.write() as silent:
        silent.execute(text("UPDATE leaders SET holder = 'b'"))
        with database.write() as session:
            session.execute(text("UPDATE leaders SET holder = 'c'"))  # waits for the lock, and gets it
        silent.execute(text("UPDATE leaders SET holder = 'd'"))
    with database.read() as session:
        assert session.scalar(text("SELECT holder FROM leaders")) == "c"
    hasty.close()
    database.close()


@pytest.mark.postgres
def test_a_migration_and_a_snapshot_may_be_silent_for_longer(postgres: Postgres) -> None:
    """Both read or write files between two statements, which may take long on a busy disk."""
    database = Database(postgres.database())
    allowed = text("SHOW idle_in_transaction_session_timeout")
    with database.engine.begin() as connection:
        assert connection.scalar(allowed) == "10s"
        database.lock_schema(connection)
        assert connection.scalar(allowed) == "1min"
    with database.snapshot() as connection:
        assert connection.scalar(allowed) == "1min"
    with database.look() as connection:
        assert connection.scalar(allowed) == "10s"
    database.close()


# --- a server that is frozen, or locked -------------------------------------------------------------------------------

SILENCE_SECONDS = 0.4


@pytest.fixture
def impatient(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database without tables whose connections allow a silence of 0.4 s."""
    monkeypatch.setattr(module, "SILENCE_MS", int(SILENCE_SECONDS * 1000))
    monkeypatch.setattr(module, "CONNECT_SECONDS", 2)
    database = Database(postgres.url)
    yield database
    database.close()


@pytest.mark.postgres
@pytest.mark.parametrize(
    "way",
    [
        *("read", "look", "write", "commit"),
        pytest.param("ping", marks=pytest.mark.long),  # these two wait for a new connection, 2 s at least
        pytest.param("connect", marks=pytest.mark.long),
    ],
)
def test_a_frozen_server_is_away_and_is_found_again_when_it_goes_on(
    impatient: Database, postgres: Postgres, way: str
) -> None:
    """SIGSTOP: all connections stay open, and the kernel answers for the server. A session waited without end."""
    one = text("SELECT 1")
    if way == "connect":
        impatient.close()  # the pool is empty
    session_of: Callable[[], AbstractContextManager[Session]] = {"read": impatient.read, "look": impatient.look}.get(
        way, impatient.write
    )
    with ExitStack() as stack, pytest.raises(DatabaseAway, match="silent|timeout"):
        if way in ("ping", "connect"):
            stack.enter_context(postgres.frozen())
        with session_of() as session:
            session.execute(one)
            stack.enter_context(postgres.frozen())
            if way != "commit":
                session.execute(one)
    with impatient.read() as session:
        assert session.scalar(one) == 1


@pytest.mark.postgres
def test_a_table_that_stays_locked_is_away_and_leaves_no_statement_waiting_on_the_server(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_MS", 100)
    database = Database(postgres.url)
    with database.write() as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS held (name text)"))
    with database.write() as holder:
        holder.execute(text("LOCK TABLE held IN ACCESS EXCLUSIVE MODE"))
        for statement in ("SELECT * FROM held", "INSERT INTO held VALUES ('a')", "DELETE FROM held"):
            with pytest.raises(DatabaseAway, match="lock timeout"), database.write() as session:
                session.execute(text(statement))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        assert holder.scalar(text(waiting)) == 0
    database.close()


@pytest.mark.postgres
def test_rows_that_keep_arriving_may_take_longer_than_the_silence(impatient: Database) -> None:
    """As for a long list, or one that a slow network delays: each row is sent when it is there."""
    slow = (
        "SELECT repeat('x', 9000), pg_sleep(0.1) FROM generate_series(1, 10)"  # more than PostgreSQL's buffer of 8 KB
    )
    began = time.monotonic()
    with impatient.read() as session:
        assert len(session.execute(text(slow)).all()) == 10
    assert time.monotonic() - began > 2 * SILENCE_SECONDS


@pytest.mark.postgres
def test_snapshots_migrations_and_sweeps_may_be_silent_for_longer_and_the_next_transaction_may_not(
    impatient: Database,
) -> None:
    slow = text("SELECT pg_sleep(0.6)")
    with impatient.snapshot() as connection:
        connection.execute(slow)
    with impatient.write() as session:
        impatient.lock_schema(session.connection())
        session.execute(slow)
    with impatient.write() as session:
        impatient.allow_long_statements(session)
        session.execute(slow)
    assert impatient.engine.pool.checkedin() == 1, "the same connection"  # type: ignore[attr-defined]
    with pytest.raises(DatabaseAway), impatient.read() as session:
        session.execute(slow)
