"""Folders in this host's cache, which several processes use at once.

A folder is made in a temporary one and renamed when it is complete; of concurrent makers the first rename wins. It has
a manifest with the sha256 of each file. Before each use sizes and times are compared with it, and files are hashed
where those differ, and once after each boot of the host: nothing is flushed to the disk, so a host that loses power may
leave a file of the right size with other content. A folder that is not whole is removed, and made anew.

A process that uses a folder has a lock on it, which ends with the process. Unused folders are removed when another
version of the same name is made, or, the least recently used first, when there is no room.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from errno import EAGAIN, EEXIST, ENOLCK, ENOSPC, ENOTEMPTY, EOPNOTSUPP
from pathlib import Path

import psutil

MANIFEST, LOCK = "entry.json", "lock"  # in each folder, beside its files
MUTEX = ".lock"  # beside the folders: held while one is renamed
MUTEX_SECONDS, PAUSE_SECONDS = 5.0, 0.01
UNLOCKED_SECONDS = 60.0  # after which a temporary folder without a lock is of a process that ended
PART_SECONDS = 24 * 3600.0  # the same on a filesystem without locks: no folder takes so long to make
TRIES = 3
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_LOCKS = (ENOLCK, EOPNOTSUPP)  # of some network filesystems

Build = Callable[[Path], Mapping[str, str]]  # writes files into the folder; returns those sha256 that it has checked


class HeldFolder:
    """A complete folder at `path`, which is not removed before `release` is called or this object is collected.

    `lock`: the descriptor of its lock; None for a folder that is not in the cache.
    """

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path
        self._close = None if lock is None else weakref.finalize(self, os.close, lock)

    def release(self) -> None:
        """May be called more than once."""
        if self._close is not None:
            self._close()


class FolderCache:
    """Folders below `root`, named NAME-VERSION, of at most `most_bytes` together."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        self.root, self.most_bytes = root, most_bytes

    def find(self, name: str) -> HeldFolder | None:
        """The folder, or None if there is none; one that is damaged is removed."""
        path = self.root / name
        lock = _hold(path)
        if lock is None:
            if path.is_dir():  # it has no lock: an earlier version of gradq made it
                self._discard(path, None)
            return None
        held = HeldFolder(path, lock)
        if not _is_whole(path):
            self._discard(path, os.fstat(lock).st_ino)
            held.release()
            return None
        with contextlib.suppress(OSError):
            os.utime(path / LOCK)  # its last use
        return held

    def make(self, name: str, size_bytes: int, build: Build, required: bool = False) -> HeldFolder:
        """Make the folder, whose files will have about `size_bytes`, or take that of a process that was faster.

        Removes other versions of it. Raises what `build` does, and OSError if the folder cannot be written or, unless
        it is `required`, there is no room for it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        part = self.root / f".{name}.{secrets.token_hex(4)}"
        try:
            with self._mutex():  # so that none takes the new folder for one that was left over
                self._remove_leftovers()
                self._make_room(name, size_bytes, required, free_bytes=size_bytes)
                part.mkdir()
                lock = os.open(part / LOCK, os.O_CREAT | os.O_RDONLY, 0o600)
                held = HeldFolder(part, lock)
                _lock(lock, fcntl.LOCK_SH)
            try:
                _write_manifest(part, build(part))
                return self._publish(held, name, required)
            except BaseException:
                held.release()
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def names(self, pattern: str) -> list[str]:
        """The names of complete folders that match `pattern`."""
        return [path.name for path in self.root.glob(pattern) if not path.name.startswith(".") and path.is_dir()]

    def remove(self, name: str) -> None:
        """Remove a folder unless it is in use."""
        with contextlib.suppress(OSError), self._mutex():
            self._remove_unused(self.root / name)

    def _publish(self, held: HeldFolder, name: str, required: bool) -> HeldFolder:
        """Rename the temporary folder. Returns it, or the folder of a process that was faster."""
        path = self.root / name
        for _ in range(TRIES):
            with self._mutex():
                self._make_room(name, size_of(held.path), required)
                try:
                    held.path.rename(path)
                except OSError as error:
                    if error.errno not in (EEXIST, ENOTEMPTY):
                        raise
                else:
                    held.path = path
                    for other in self.names(f"{_stem(name)}-*"):
                        if other != name and _stem(other) == _stem(name):
                            self._remove_unused(self.root / other)
                    return held
            if (others := self.find(name)) is not None:
                held.release()
                return others
        raise OSError(EAGAIN, "another process makes and removes this folder", str(path))

    @contextlib.contextmanager
    def _mutex(self) -> Iterator[None]:
        """Held while folders are renamed and removed, which takes no time: who waits long gives up, with an OSError."""
        lock = os.open(self.root / MUTEX, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            give_up = time.monotonic() + MUTEX_SECONDS
            while _lock(lock, fcntl.LOCK_EX) is False:
                if time.monotonic() > give_up:
                    raise OSError(EAGAIN, "the cache is locked by another process", str(self.root))
                time.sleep(PAUSE_SECONDS)
            yield
        finally:
            os.close(lock)

    def _discard(self, path: Path, inode: int | None) -> None:
        """Remove a folder that is not whole, unless its lock is no longer this inode: it has been made anew then."""
        with contextlib.suppress(OSError), self._mutex():
            if _inode(path / LOCK) == inode:
                self._remove(path)

    # --- what follows needs the mutex ---------------------------------------------------------------------------------

    def _make_room(self, name: str, size_bytes: int, required: bool, free_bytes: int = 0) -> None:
        """Remove the least recently used folders until `size_bytes` more fit into the cache, and `free_bytes` on the
        disk. Raises OSError if they do not, unless they are `required`."""
        sizes = {self.root / other: size_of(self.root / other) for other in self.names("*") if other != name}
        total = sum(sizes.values())

        def fits() -> bool:
            on_disk = not free_bytes or shutil.disk_usage(self.root).free >= free_bytes
            return on_disk and total + size_bytes <= self.most_bytes

        possible = shutil.disk_usage(self.root).free + total >= free_bytes and size_bytes <= self.most_bytes
        if possible or required:
            for path in sorted(sizes, key=_last_use):
                if fits():
                    break
                if self._remove_unused(path):
                    total -= sizes[path]
        if not required and not fits():
            raise OSError(ENOSPC, f"no room for {size_bytes} bytes in the cache", str(self.root))

    def _remove_unused(self, path: Path) -> bool:
        """Whether the folder is gone: not if it is in use, or that cannot be known."""
        with contextlib.suppress(OSError):
            lock = _open(path / LOCK)
            try:
                if lock is None or _lock(lock, fcntl.LOCK_EX):
                    self._remove(path)
                    return True
            finally:
                if lock is not None:
                    os.close(lock)
        return False

    def _remove(self, path: Path) -> None:
        """Under another name first, so that no process finds a part of it."""
        gone = self.root / f".{path.name}.{secrets.token_hex(4)}"
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove the temporary folders of processes that ended."""
        for part in self.root.glob(".*"):
            with contextlib.suppress(OSError):
                if part.is_dir() and _is_left_over(part):
                    shutil.rmtree(part, ignore_errors=True)


# --- locks ------------------------------------------------------------------------------------------------------------


def _hold(path: Path) -> int | None:
    """Lock a complete folder against removal. None if there is none, or it is being removed."""
    lock = _open(path / LOCK)
    if lock is None:
        return None
    if _lock(lock, fcntl.LOCK_SH) is not False and _inode(path / LOCK) == os.fstat(lock).st_ino:
        return lock
    os.close(lock)
    return None


def _lock(lock: int, kind: int) -> bool | None:
    """Whether the lock could be taken at once; None on a filesystem without locks."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _is_left_over(part: Path) -> bool:
    """Whether a temporary folder is of a process that ended. Raises OSError."""
    age = time.time() - part.stat().st_mtime
    lock = _open(part / LOCK)
    if lock is None:
        return age > UNLOCKED_SECONDS
    try:
        free = _lock(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)
    return age > PART_SECONDS if free is None else free


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


# --- files ------------------------------------------------------------------------------------------------------------


def stamp_of(path: Path) -> list[int]:
    """What changes with a file's content: size, times and inode. Raises OSError."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):
                total += file.stat(follow_symlinks=False).st_size
    return total


def _stem(name: str) -> str:
    return name.rpartition("-")[0]


def _last_use(folder: Path) -> float:
    try:
        return (folder / LOCK).stat().st_mtime
    except OSError:
        return 0.0


def _write_manifest(folder: Path, checked: Mapping[str, str]) -> None:
    files = {
        path.name: {"sha256": checked.get(path.name) or _sha256(path), "stamp": stamp_of(path)}
        for path in sorted(folder.iterdir())
        if path.name != LOCK
    }
    (folder / MANIFEST).write_text(json.dumps({"boot": _boot(), "files": files}))


def _is_whole(folder: Path) -> bool:
    """Whether each file is the one in the manifest, which is written anew after files had to be hashed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files, boot = manifest["files"], _boot()
        fresh = {name: stamp_of(folder / name) for name in files}
        unsure = [name for name in files if manifest["boot"] != boot or fresh[name] != files[name]["stamp"]]
        for name in unsure:
            if fresh[name][0] != files[name]["stamp"][0] or _sha256(folder / name) != files[name]["sha256"]:
                return False
            files[name]["stamp"] = fresh[name]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    if unsure:
        anew = folder / f".{MANIFEST}.{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):  # else the next process hashes them once more
            anew.write_text(json.dumps({"boot": boot, "files": files}))
            anew.replace(folder / MANIFEST)
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _boot() -> str:
    """Another text after each boot of the host."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return str(int(psutil.boot_time()))
