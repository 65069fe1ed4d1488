"""A memory limit for some processes, enforced by the kernel: a new control group, version 1 or 2."""

from __future__ import annotations

import errno
from pathlib import Path
from uuid import uuid4

import psutil
from support.waiting import wait_for

from worker.oom import CGROUPS, OWN_CGROUPS


class MemoryGroup:
    """A new control group. Raises OSError if this user may not create one."""

    def __init__(self, limit_bytes: int) -> None:
        parent, limit = _own_group()
        self.folder = parent / f"gradq-test-{uuid4().hex[:8]}"
        self.folder.mkdir()
        try:
            (self.folder / limit).write_text(str(limit_bytes))
        except OSError:
            self.folder.rmdir()
            raise

    def add(self, process: psutil.Process) -> None:
        """Move a process into the group; processes that it starts later are in it too."""
        (self.folder / "cgroup.procs").write_text(str(process.pid))

    def remove(self) -> None:
        wait_for(self._removed, 20, "the end of all that ran in the group")

    def _removed(self) -> bool:
        try:
            self.folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True


def _own_group() -> tuple[Path, str]:
    """The folder of this process's group, and the name of the file with its memory limit."""
    groups = dict(line.split(":", 2)[1:] for line in OWN_CGROUPS.read_text().splitlines())
    if "memory" in groups:
        return CGROUPS / "memory" / groups["memory"].lstrip("/"), "memory.limit_in_bytes"
    folder = CGROUPS / groups[""].lstrip("/")
    (folder / "cgroup.subtree_control").write_text("+memory")
    return folder, "memory.max"
