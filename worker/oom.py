"""Whether the kernel, short of memory, killed a process of late: SIGKILL by itself does not say who sent it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS, HOST = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/vmstat")
LATELY_SECONDS = 5.0  # a process that held gigabytes takes seconds to go after it was counted


class OomKills:
    """Watches the kernel's count of such kills: this cgroup's where there is one, else the host's."""

    def __init__(self, counters: Iterable[Path] | None = None) -> None:
        candidates = _counters() if counters is None else counters
        self.counter = next((path for path in candidates if _read(path) is not None), None)
        self.count = self._now()
        self.rose_at = float("-inf")

    def look(self) -> None:
        count = self._now()
        if count > self.count:
            self.rose_at = time.monotonic()
        self.count = count

    def lately(self) -> bool:
        self.look()
        return time.monotonic() - self.rose_at < LATELY_SECONDS

    def _now(self) -> int:
        return (_read(self.counter) or 0) if self.counter else 0


def _counters() -> Iterator[Path]:
    """Version 2, then version 1; a container sees its own group as the root, under whatever name."""
    for line in OWN_CGROUPS.read_text().splitlines() if OWN_CGROUPS.exists() else []:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            yield from (CGROUPS / name / "memory.events" for name in (group.lstrip("/"), ""))
        elif "memory" in controllers.split(","):
            yield from (CGROUPS / "memory" / name / "memory.oom_control" for name in (group.lstrip("/"), ""))
    yield HOST


def _read(path: Path) -> int | None:
    """The number behind the word oom_kill; None where there is no such file or word."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next(
        (int(number) for name, _, number in (line.partition(" ") for line in lines) if name == "oom_kill"), None
    )
