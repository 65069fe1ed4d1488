"""The verbs `backup` and `restore`: files, pipes, progress bars and messages around gradq.backup."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from gradq import own_packages
from gradq.commands.failure import CommandError
from gradq.commands.formatting import size
from gradq.commands.options import AsJson, Exit, print_json
from gradq.commands.plain_console import PlainConsole

if TYPE_CHECKING:
    from gradq.backup.contents import Advance
    from gradq.backup.restore import Restored
    from gradq.backup.save import Saved
    from shared.config import Settings

PIPE = Path("-")
NAMED = 10  # at most this many rows that were left out are named

To = Annotated[Path, typer.Argument(metavar="FILE", help="A .tar, a folder to write one to, or - for standard output.")]
From = Annotated[Path, typer.Argument(metavar="FILE", help="A file of `gradq backup`; - reads standard input.")]
State = Annotated[Path | None, typer.Option(help="The service's folder. [GRADQ_STATE_DIR]")]


class NotEnded(CommandError):
    code = "internal_error"


def backup(file: To, state: State = None, as_json: AsJson = False) -> None:
    """Save jobs, models, checkpoints and datasets to one file, while the service runs.

    Reads the database and the artifact store of the settings directly, not
    the API. Exit 1: the store has lost or damaged a file; the backup was
    written without it.
    """
    from gradq.backup.save import save
    from shared.artifacts import ArtifactStore
    from shared.db.database import Database

    settings = _settings(state)
    _refuse_nothing(settings)
    settings.make_state_dir()
    with (
        _ended_in_order("the backup was not made"),
        closing(Database(settings.database)) as database,
        tempfile.TemporaryDirectory(prefix="backup-", dir=settings.state_dir) as scratch,
        _written(file) as (name, out),
        _bar("saving") as advance,
    ):
        saved = save(database, ArtifactStore(settings.artifacts), out, Path(scratch), advance)
    _report_saved(name, saved, as_json and file != PIPE, sys.stderr if file == PIPE else sys.stdout)
    if not saved.whole:
        raise typer.Exit(Exit.FAILED)


def restore(file: From, state: State = None, as_json: AsJson = False) -> None:
    """Restore a backup into an empty state folder, database and store.

    Jobs, curves and files keep their ids. Jobs that were running are queued
    and resume from their last checkpoint when the service starts. The kind of
    database or store may differ from that of the backup.
    """
    from gradq.backup.restore import restore as put_back
    from gradq.local.instance import only_one
    from shared.artifacts import ArtifactStore
    from shared.db.database import Database

    settings = _settings(state)
    with _ended_in_order("nothing was restored"), _read(file) as source:
        settings.make_state_dir()
        with (
            only_one(settings.state_dir, "restoring a backup"),
            closing(Database(settings.database)) as database,
            tempfile.TemporaryDirectory(prefix="restore-", dir=settings.state_dir) as scratch,
            _bar("restoring") as advance,
        ):
            store = ArtifactStore(settings.artifacts)
            restored = put_back(database, store, source, Path(scratch), settings.lease_seconds, advance)
    _report_restored(restored, as_json)


# --- files and pipes --------------------------------------------------------------------------------------------------


def _settings(state: Path | None) -> Settings:
    from shared.config import Settings

    return Settings.from_env(**({} if state is None else {"state_dir": state}))


def _refuse_nothing(settings: Settings) -> None:
    """Raises NothingToBackUp if SQLite's file is missing; opening it would create an empty one."""
    from sqlalchemy.engine import make_url

    from gradq.backup import NothingToBackUp

    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise NothingToBackUp(f"{url.database} does not exist; pass the service's folder as --state or GRADQ_STATE_DIR")


@contextmanager
def _written(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """A name and a stream to write to. A file has mode 600, and gets its name once it is complete and fsynced."""
    if file == PIPE:
        if _is_terminal(sys.stdout):
            raise typer.BadParameter("cannot write a backup to a terminal; name a file, or pipe the output of -")
        yield "the backup", sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = file / f"gradq-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar" if file.is_dir() else file
    if path.exists() and not _is_backup(path):
        raise typer.BadParameter(f"{path} exists and is not a backup of gradq; choose another name")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
            yield str(path), out
            out.flush()
            os.fsync(out.fileno())
        temporary.rename(path)
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _read(file: Path) -> Iterator[IO[bytes]]:
    if file == PIPE:
        yield sys.stdin.buffer
        return
    with file.open("rb") as source:
        yield source


def _is_terminal(file: IO[str]) -> bool:
    return file.isatty()


def _is_backup(path: Path) -> bool:
    """Whether the file is a backup, which may be overwritten."""
    from gradq.backup.contents import HEAD

    try:
        with tarfile.open(path) as tar:
            first = tar.next()
    except (tarfile.TarError, OSError, EOFError):
        return False
    return first is not None and first.name == HEAD


def _fsync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _ended_in_order(outcome: str) -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, removing partial files. Raises NotEnded for an OSError, and
    for what the library of an artifact store raises; each has errors of its own. Under nohup SIGHUP stays ignored."""
    hangups = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    signals = (signal.SIGTERM, *([signal.SIGHUP] if hangups else []))
    before = {number: signal.signal(number, _leave) for number in signals}
    try:
        yield
    except OSError as error:
        raise NotEnded(f"{outcome}: {error}") from error
    except Exception as error:
        if isinstance(error, ImportError) or not _is_of_a_library(error):
            raise
        raise NotEnded(f"{outcome}: {type(error).__name__}: {error}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_of_a_library(error: Exception) -> bool:
    """Whether code outside gradq's packages raised the error; one of gradq's own keeps its traceback."""
    raised_in = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        raised_in = str(frame.f_globals.get("__name__", ""))
    return raised_in.partition(".")[0] not in own_packages.NAMES


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


# --- output -----------------------------------------------------------------------------------------------------------


@contextmanager
def _bar(what: str) -> Iterator[Advance]:
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _report_saved(name: str, saved: Saved, as_json: bool, to: IO[str]) -> None:
    if as_json:
        print_json({"object": "backup", "file": name, **asdict(saved)})
    else:
        jobs, datasets = saved.rows["jobs"], saved.rows.get("datasets", 0)
        print(f"{name}: {_amount(jobs, datasets, saved.files, saved.size_bytes)}", file=to)
    for left in saved.left_out[:NAMED]:
        since = "deleted since the backup began" if left.why == "deleted" else f"{left.why} by the artifact store"
        print(f"left out: {left.table} {left.key}, {since}", file=sys.stderr)
    if len(saved.left_out) > NAMED:
        print(f"left out: {len(saved.left_out) - NAMED} more; --json names all", file=sys.stderr)


def _report_restored(restored: Restored, as_json: bool) -> None:
    if as_json:
        print_json({"object": "restored", **asdict(restored), "created_at": restored.created_at.isoformat()})
        return
    print(f"restored {_amount(sum(restored.jobs.values()), restored.datasets, restored.files, restored.size_bytes)}")
    print(f"as of {restored.created_at:%Y-%m-%d %H:%M:%S} UTC: {_states(restored.jobs)}")
    print("Start the service to run the queued jobs.")


def _amount(jobs: int, datasets: int, files: int, size_bytes: int) -> str:
    counted = (_count(jobs, "job"), _count(datasets, "dataset"), _count(files, "file"))
    return f"{', '.join(counted)}, {size(size_bytes)}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _states(jobs: dict[str, Any]) -> str:
    return ", ".join(f"{count} {state}" for state, count in jobs.items()) or "no job"
