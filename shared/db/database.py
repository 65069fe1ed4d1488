"""Engine, sessions and transactions for SQLite and PostgreSQL. Readers never block a writer."""

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

from shared.db.revision import NEWEST
from shared.errors import ConfigurationError, DatabaseAway

BUSY_TIMEOUT_MS = 10_000
CONNECT_SECONDS = 5
SILENCE_MS = 10_000
LOCK_MS = 8_000  # for a lock on a row or a table; less than the silence, so that the server ends the statement
LONG_SILENCE_MS = 60_000  # for transactions that also read or write files, which can take 10 s on a busy disk
WAL_RETRY_SECONDS = 0.01
SQLITE_IN_USE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "glusterfs", "ceph")
READ_ONLY = "25006"  # PostgreSQL's SQLSTATE during a failover, or of a managed server whose disk is full
SQLITE_AWAY = (*SQLITE_IN_USE, "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_READONLY")


class Database:
    """Opens sessions. Connects on first use.

    All methods raise DatabaseAway if the database cannot be reached, stays locked for `BUSY_TIMEOUT_MS`, or sends
    nothing for `SILENCE_MS` during a statement.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        self._write_lock = _WriteLock() if self.is_sqlite else None
        self._file = make_url(url).database or "" if self.is_sqlite else ""

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading."""
        with _raise_database_away(self._file), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextlib.contextmanager
    def look(self) -> Iterator[Connection]:
        """A connection for reading single rows without a session, in half the time."""
        with _raise_database_away(self._file), self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, wait_seconds: float | None = None) -> Iterator[Session]:
        """A session with one transaction: committed at the end of the block, rolled back by an exception.

        `wait_seconds`: how long to wait for other writers, by default `BUSY_TIMEOUT_MS` or `LOCK_MS`. For what may as
        well be written later, or not at all.
        """
        engine = self.engine.execution_options(gradq_writes=True, gradq_wait_seconds=wait_seconds)
        with (
            self._write_lock.held(wait_seconds) if self._write_lock else contextlib.nullcontext(),
            _raise_database_away(self._file),
            Session(engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            if wait_seconds is not None and not self.is_sqlite:
                session.execute(text(f"SET LOCAL lock_timeout = {round(wait_seconds * 1000)}"))
            yield session

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees all tables as of its first query until the block ends. Does not block writers."""
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        engine = self.engine if self.is_sqlite else self.engine.execution_options(**options)
        with _raise_database_away(self._file), engine.connect() as connection, connection.begin():
            if not self.is_sqlite:
                _allow_long_silence(connection, None)
            yield connection

    def migrate(self, to: str = NEWEST) -> str:
        """Upgrade or downgrade the schema to a revision, by default the newest; return the revision.

        Idempotent, and safe to run in several processes at once.
        """
        from shared.db import migrate  # imports Alembic, which no other method needs

        with _raise_database_away(self._file), self.engine.execution_options(gradq_writes=True).begin() as connection:
            self.lock_schema(connection)
            return migrate.move(connection, to)

    def lock_schema(self, connection: Connection) -> None:
        """Lock the schema against other migrations and restores until the transaction ends."""
        if not self.is_sqlite:  # SQLite: BEGIN IMMEDIATE is the lock
            _allow_long_silence(connection, None)
            connection.execute(text("SELECT pg_advisory_xact_lock(7470001)"))

    def allow_long_statements(self, session: Session) -> None:
        """Let the statements of this transaction take `LONG_SILENCE_MS` each: those that delete many rows, for which no
        request waits."""
        if not self.is_sqlite:
            _allow_long_silence(session.connection(), LONG_SILENCE_MS)

    def checkpoint_wal(self) -> None:
        """Copy SQLite's write-ahead log into the database file. Only the leader calls this: see `_on_connect`."""
        if self.is_sqlite:
            with _raise_database_away(self._file), self.engine.connect() as connection:
                connection.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))

    def close(self) -> None:
        self.engine.dispose()


class _WriteLock:
    """Serializes the writing threads of one process.

    SQLite allows one writer anyway, and its busy handler makes the others poll, with sleeps of up to 100 ms.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def held(self, wait_seconds: float | None) -> Iterator[None]:
        """Raises DatabaseAway after `wait_seconds`, by default `BUSY_TIMEOUT_MS`."""
        if not self._lock.acquire(timeout=BUSY_TIMEOUT_MS / 1000 if wait_seconds is None else wait_seconds):
            raise DatabaseAway("other threads of this process held the write lock for too long")
        try:
            yield
        finally:
            self._lock.release()


def upsert(session: Session, table: Any, keys: set[str], values: dict[str, Any], where: Any = None) -> bool:
    """Insert a row, or update the one with the same `keys` if `where` holds. Returns whether a row was written."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values)
    change = {name: value for name, value in values.items() if name not in keys}
    statement = statement.on_conflict_do_update(index_elements=sorted(keys), set_=change, where=where)
    written = session.execute(statement.returning(*(getattr(table, name) for name in keys)))
    return written.first() is not None  # `rowcount` is -1 here on PostgreSQL


def _postgresql_engine(url: str) -> Engine:
    """An engine whose connections detect an unresponsive peer within about 10 s, at both ends.

    By default libpq waits for hours, and for ever for a server that is stopped or for a lock; and a client that is
    stopped (SIGSTOP) inside a transaction keeps its locks until it is continued.
    """
    silence = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENCE_MS,
    }
    engine = create_engine(
        url, pool_pre_ping=True, pool_size=8, max_overflow=24, pool_use_lifo=True, connect_args=silence
    )
    event.listen(engine, "do_connect", _connect_to_postgresql)
    event.listen(engine, "connect", _on_postgresql_connect)
    event.listen(engine, "checkin", _limit_silence)
    return engine


def _connect_to_postgresql(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
    from shared.db.silence_limit import LimitedConnection  # imports psycopg, which SQLite does not need

    return LimitedConnection.connect(*arguments, **options)


def _on_postgresql_connect(connection: Any, record: Any) -> None:
    _limit_silence(connection, record)
    connection.autocommit = True
    connection.execute(f"SET idle_in_transaction_session_timeout = {SILENCE_MS}; SET lock_timeout = {LOCK_MS}")
    connection.autocommit = False


def _limit_silence(connection: Any, _record: Any) -> None:
    """The limit of each transaction but those of `_allow_long_silence`. `connection` None: it was invalidated."""
    if connection is not None:
        connection.silence_seconds = SILENCE_MS / 1000


def _allow_long_silence(connection: Connection, statement_ms: int | None) -> None:
    """Raise the limits for this transaction, for which no request waits: PostgreSQL's idle timeout, and how long a
    statement may take or wait for a lock. None: without a limit."""
    connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {LONG_SILENCE_MS}"))
    connection.execute(text(f"SET LOCAL lock_timeout = {statement_ms or 0}"))
    raised = None if statement_ms is None else statement_ms / 1000
    connection.connection.dbapi_connection.silence_seconds = raised  # type: ignore[union-attr]


def _sqlite_engine(url: str) -> Engine:
    path = make_url(url).database
    if not path:
        raise ConfigurationError("GRADQ_DATABASE_URL: SQLite needs a file, since several processes share the database")
    folder = Path(path).resolve().parent
    filesystem = filesystem_of(folder)
    if filesystem in NETWORK_FILESYSTEMS:
        raise ConfigurationError(
            f"{folder} is on {filesystem}: SQLite's WAL mode needs shared memory, which network filesystems do not "
            "support. Set GRADQ_STATE_DIR to a local folder, or GRADQ_DATABASE_URL to PostgreSQL."
        )
    folder.mkdir(parents=True, exist_ok=True)
    wait = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
    engine = create_engine(url, pool_size=8, max_overflow=56, pool_use_lifo=True, connect_args=wait)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # otherwise the driver begins deferred transactions itself; see _on_begin
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        # SQLite before 3.51.3 can corrupt a WAL database when two processes checkpoint it at the same moment (the
        # WAL-reset bug), so automatic checkpoints are off, and a single process calls checkpoint_wal.
        "wal_autocheckpoint=0",
    ):
        connection.execute(f"PRAGMA {pragma}")
    _enter_wal_mode(connection)


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    """Retry until the file is in WAL mode: the busy timeout does not apply while another process converts it. Other
    errors, of a full disk for example, are raised at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not _code_of(error).startswith(SQLITE_IN_USE) or time.monotonic() > deadline:
                raise
            time.sleep(WAL_RETRY_SECONDS)
        else:
            return


def _on_begin(connection: Any) -> None:
    # a deferred transaction that reads and then writes fails at once, despite the busy timeout, if another connection
    # has written in between
    options = connection.get_execution_options()
    if not options.get("gradq_writes", False):
        # not through SQLAlchemy, which takes 10 us: it locks nothing, so it raises nothing that would be converted
        connection.connection.driver_connection.execute("BEGIN")
    elif (wait_seconds := options.get("gradq_wait_seconds")) is None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        driver = connection.connection.driver_connection
        driver.execute(f"PRAGMA busy_timeout={round(wait_seconds * 1000)}")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


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
def _raise_database_away(file: str) -> Iterator[None]:
    """Convert errors of an unavailable database to DatabaseAway; errors of a wrong statement are not converted. `file`:
    SQLite's, which its errors do not name; empty for others."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseAway("all connections are in use") from error
    except DBAPIError as error:
        if error.connection_invalidated or _is_away(error):
            raise DatabaseAway(f"{error.orig}: {file}" if file else str(error.orig)) from error
        raise


def _is_away(error: DBAPIError) -> bool:
    """Whether the database is unavailable. For SQLite the driver's error code decides, since it raises OperationalError
    for a missing table too."""
    if isinstance(error.orig, sqlite3.Error):
        return _code_of(error.orig).startswith(SQLITE_AWAY)
    read_only = getattr(error.orig, "sqlstate", None) == READ_ONLY
    return read_only or isinstance(error, OperationalError | InterfaceError)


def _code_of(error: sqlite3.Error) -> str:
    """SQLite's name of the error, as SQLITE_BUSY_RECOVERY; empty for an error of the driver itself."""
    return getattr(error, "sqlite_errorname", "")
