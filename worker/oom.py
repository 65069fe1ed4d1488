"""Detects recent OOM kills from the kernel's counters: SIGKILL alone does not say who sent it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS, HOST = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/vmstat")
RECENT_SECONDS = 5.0  # a process that holds gigabytes takes seconds to end after it was counted


class OomKills:
    """Watches the kernel's count of OOM kills: of this process's cgroup if it has one, else of the host."""

    def __init__(self, counters: Iterable[Path] | None = None) -> None:
        candidates = _counters() if counters is None else counters
        self.counter = next((path for path in candidates if _read(path) is not None), None)
        self.count = self._now()
        self.rose_at = float("-inf")

    def poll(self) -> None:
        """Read the counter and remember when it rose."""
        count = self._now()
        if count > self.count:
            self.rose_at = time.monotonic()
        self.count = count

    def recently(self) -> bool:
        """Whether the counter rose in the last RECENT_SECONDS; False on a system without a counter."""
        self.poll()
        return time.monotonic() - self.rose_at < RECENT_SECONDS

    def _now(self) -> int:
        return (_read(self.counter) or 0) if self.counter else 0


def _counters() -> Iterator[Path]:
    """Candidates: cgroup version 2, version 1, the host.

    Each group is tried at its own path and at the root: a container sees its own group as the root.
    """
    try:
        lines = OWN_CGROUPS.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            yield from (CGROUPS / name / "memory.events" for name in (group.lstrip("/"), ""))
        elif "memory" in controllers.split(","):
            yield from (CGROUPS / "memory" / name / "memory.oom_control" for name in (group.lstrip("/"), ""))
    yield HOST


def _read(path: Path) -> int | None:
    """The number after the word oom_kill; None if the file or the word is missing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next(
        (int(number) for name, _, number in (line.partition(" ") for line in lines) if name == "oom_kill"), None
    )
