"""A small disk that a test can fill: a tmpfs, if this user may mount one."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from pathlib import Path

FILLER = ".filler"
CHUNK = 1 << 16


class SmallDisk:
    """A tmpfs at `path`. `fill` writes a file of zeros that takes all the free space."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "gradq-test", str(path)]
        subprocess.run(command, check=True, capture_output=True)

    def fill(self) -> None:
        with (self.path / FILLER).open("ab", buffering=0) as file:
            for size in (CHUNK, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def leave(self, size: int) -> None:
        """Fill the disk except for `size` bytes, a multiple of the page size."""
        self.fill()
        filler = self.path / FILLER
        os.truncate(filler, filler.stat().st_size - size)

    def free(self) -> None:
        (self.path / FILLER).unlink(missing_ok=True)

    def try_to_protect(self) -> bool:
        """Make the disk read-only, as a kernel does after errors. False while a file on it is open for writing."""
        return self._remount("ro")

    def unprotect(self) -> None:
        assert self._remount("rw")

    def _remount(self, option: str) -> bool:
        command = ["mount", "-o", f"remount,{option}", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True, capture_output=True)


def why_no_disks() -> str | None:
    """Why no tmpfs can be mounted, None if it can. Only root may, and in a container often not even root."""
    with tempfile.TemporaryDirectory(prefix="gradq-disk-") as folder:
        try:
            SmallDisk(Path(folder), 1).unmount()
        except FileNotFoundError:
            return "mount(8) is not installed"
        except subprocess.CalledProcessError as error:
            return str(error.stderr.decode(errors="replace").strip().splitlines()[0])
    return None
