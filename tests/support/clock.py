"""A wall clock that a test can set, for processes started with it; the machine's clock is not changed."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class SetClock:
    """Compiles the library in `folder`. A process started with `environment` uses this clock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        library = folder / "clock.so"
        self.set(0)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        self.environment = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(self.file)}

    def set(self, seconds: int) -> None:
        """Set the clock to the real time plus `seconds`."""
        with self.file.open("r+b" if self.file.exists() else "w+b", buffering=0) as file:
            file.write(struct.pack("q", seconds))


def why_no_clock() -> str | None:
    """Why this machine cannot have such a clock; None if it can."""
    if not sys.platform.startswith("linux"):
        return "only Linux can preload a library this way"
    if shutil.which("cc") is None:
        return "no C compiler to build the clock with"
    return None
