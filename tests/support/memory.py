"""A limit on the memory of some processes, held by the kernel: a control group of one's own, version 1 or 2."""

from __future__ import annotations

import errno
from pathlib import Path
from uuid import uuid4

import psutil
from support.waiting import wait_for

from worker.oom import CGROUPS, OWN_CGROUPS


class MemoryGroup:
    """Raises OSError where this user may not make one."""

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
        """And all that it starts from now on."""
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
    """The group that this process is in, and what the file with the limit is called there."""
    groups = dict(line.split(":", 2)[1:] for line in OWN_CGROUPS.read_text().splitlines())
    if "memory" in groups:
        return CGROUPS / "memory" / groups["memory"].lstrip("/"), "memory.limit_in_bytes"
    folder = CGROUPS / groups[""].lstrip("/")
    (folder / "cgroup.subtree_control").write_text("+memory")
    return folder, "memory.max"
