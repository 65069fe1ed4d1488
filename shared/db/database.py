"""Engine and session scopes, for SQLite and PostgreSQL. Readers never block a writer; a write is one transaction."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from shared.db import migrate
from shared.errors import ConfigurationError, DatabaseAway

BUSY_TIMEOUT_MS = 10_000
SILENCE_MS = 10_000
LONG_SILENCE_MS = 60_000  # where files are read and written between two statements: a busy disk can take 10 s for that
WAL_RETRY_SECONDS = 0.01
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "glusterfs", "ceph")
SQLITE_AWAY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_READONLY")


class Database:
    """A place to open sessions. Opens no connection before the first one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        self._turn = _Turns() if self.is_sqlite else contextlib.nullcontext()

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        with _away_is_an_answer(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def look(self) -> Iterator[Connection]:
        """To read a row as it is, without a session: half the time."""
        with _away_is_an_answer(), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        engine = self.engine.execution_options(gradq_writes=True)
        with self._turn, _away_is_an_answer(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """All tables as they stand at the first look, for as long as the block lasts. Nobody else waits for it."""
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        engine = self.engine if self.is_sqlite else self.engine.execution_options(**options)
        with _away_is_an_answer(), engine.connect() as connection, connection.begin():
            if not self.is_sqlite:
                _allow_long_silence(connection)
            yield connection

    def migrate(self, to: str = migrate.NEWEST) -> str:
        """Bring the schema to a revision, the newest if none is named; return its name. Safe to run twice, and by two
        processes at once."""
        with _away_is_an_answer(), self.engine.execution_options(gradq_writes=True).begin() as connection:
            self.lock_schema(connection)
            return migrate.move(connection, to)

    def lock_schema(self, connection: Connection) -> None:
        """Be the only one who changes tables until this transaction ends."""
        if not self.is_sqlite:  # SQLite: BEGIN IMMEDIATE is the lock
            _allow_long_silence(connection)
            connection.execute(text("SELECT pg_advisory_xact_lock(7470001)"))

    def checkpoint_wal(self) -> None:
        """Fold SQLite's log into the file. Only the reconciler's leader calls this: see `_on_connect`."""
        if self.is_sqlite:
            with self.engine.connect() as connection:
                connection.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))

    def close(self) -> None:
        self.engine.dispose()


class _Turns:
    """The threads of one process write to SQLite one after the other.

    Only one could write anyway, and SQLite lets the others sleep for up to 100 ms at a time to see whether they may.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=BUSY_TIMEOUT_MS / 1000):
            raise DatabaseAway("other threads of this process have been writing all the time")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def upsert(session: Session, table: Any, keys: set[str], values: dict[str, Any], where: Any = None) -> bool:
    """Insert, or update where the key stands already and `where` holds. Returns whether a row was written."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values)
    change = {name: value for name, value in values.items() if name not in keys}
    statement = statement.on_conflict_do_update(index_elements=sorted(keys), set_=change, where=where)
    written = session.execute(statement.returning(*(getattr(table, name) for name in keys)))
    return written.first() is not None  # a row count would be -1 here on PostgreSQL


def _postgresql_engine(url: str) -> Engine:
    """A peer that has gone silent is noticed after some 10 s, at both ends: libpq by itself waits for hours, and a
    client that was stopped in mid-transaction would hold its locks until somebody woke it."""
    silence = {
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENCE_MS,
    }
    engine = create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=24, connect_args=silence)
    event.listen(engine, "connect", _on_postgresql_connect)
    return engine


def _on_postgresql_connect(connection: Any, _record: Any) -> None:
    connection.autocommit = True
    connection.execute(f"SET idle_in_transaction_session_timeout = {SILENCE_MS}")
    connection.autocommit = False


def _allow_long_silence(connection: Connection) -> None:
    """Until the end of this transaction, of PostgreSQL: a migration or a snapshot, which no request waits for."""
    connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {LONG_SILENCE_MS}"))


def _sqlite_engine(url: str) -> Engine:
    path = make_url(url).database
    if not path:
        raise ConfigurationError("GRADQ_DATABASE_URL: SQLite needs a file; several processes share it")
    folder = Path(path).resolve().parent
    filesystem = filesystem_of(folder)
    if filesystem in NETWORK_FILESYSTEMS:
        raise ConfigurationError(
            f"{folder} lies on {filesystem}: SQLite's log needs shared memory, which a network filesystem has not. "
            "Set GRADQ_STATE_DIR to a local folder, or GRADQ_DATABASE_URL to PostgreSQL."
        )
    folder.mkdir(parents=True, exist_ok=True)
    wait = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
    engine = create_engine(url, pool_size=8, max_overflow=56, connect_args=wait)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin a deferred transaction by itself; _on_begin does it
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        # SQLite before 3.51.3 can corrupt a WAL database when two processes fold the log at the same moment
        # (the WAL-reset bug), so nobody does it in passing; one process does, on purpose (checkpoint_wal).
        "wal_autocheckpoint=0",
    ):
        connection.execute(f"PRAGMA {pragma}")
    _enter_wal_mode(connection)


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    """Of several processes that open a new file, one converts it; the busy timeout does not cover that moment."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_SECONDS)
        else:
            return


def _on_begin(connection: Any) -> None:
    # a deferred transaction that reads, then writes, fails at once when somebody wrote in between, whatever the timeout
    writes = connection.get_execution_options().get("gradq_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def filesystem_of(path: Path) -> str:
    """The filesystem type of the mount that holds `path`; empty where the system has no /proc/mounts."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    best, kind = "", ""
    for line in mounts.read_text().splitlines():
        _, mount, filesystem, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, filesystem
    return kind


@contextlib.contextmanager
def _away_is_an_answer() -> Iterator[None]:
    """A database that cannot be reached is DatabaseAway; a wrong statement stays the error that it is."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseAway("all connections are in use") from error
    except DBAPIError as error:
        if error.connection_invalidated or _is_away(error):
            raise DatabaseAway(str(error.orig)) from error
        raise


def _is_away(error: DBAPIError) -> bool:
    """SQLite calls everything operational, a missing table too: its own code tells which it is."""
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorname", "").startswith(SQLITE_AWAY)
    return isinstance(error, OperationalError | InterfaceError)
