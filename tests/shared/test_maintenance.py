"""A maintenance thread goes on after whatever a round raises; if even that fails, its process ends to be restarted."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from shared.maintenance import EXIT_CODE, MaintenanceThread

ERRORS = [RuntimeError("no"), OSError(28, "No space left on device"), MemoryError(), RecursionError(), ValueError()]


class Counting(MaintenanceThread):
    """Raises the errors, one per round, and then ends."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__("counting", pause=0.0)
        self.errors, self.seen = list(errors), []

    def round(self) -> float | None:
        if self.errors:
            raise self.errors[0]
        return None

    def failed(self, error: Exception) -> float | None:
        self.seen.append(self.errors.pop(0))
        return super().failed(error)


def test_it_goes_on_after_errors_of_any_kind():
    thread = Counting(ERRORS)
    thread.start()
    thread.join(20)
    assert (thread.seen, thread.is_alive()) == (ERRORS, False)


def test_it_ends_when_it_is_stopped_and_waits_between_rounds():
    class Slow(MaintenanceThread):
        begun = threading.Event()

        def round(self) -> float:
            self.begun.set()
            return 3600.0

    thread = Slow("slow", pause=3600.0)
    thread.start()
    assert thread.begun.wait(20)
    thread.stopped.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "body",
    [
        "def round(self): raise SystemExit(0)",
        "def round(self): raise KeyboardInterrupt",
        "def round(self): 1 / 0\n    def failed(self, error): raise RuntimeError('again')",
        "def first_wait(self): raise OSError(5, 'no')",
        "def round(self): return 'soon'",
    ],
)
def test_a_process_does_not_outlive_its_maintenance(body: str):
    program = (
        "import time\nfrom shared.maintenance import MaintenanceThread\n"
        f"class Broken(MaintenanceThread):\n    {body}\n"
        "Broken('broken', pause=0.0).start()\ntime.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == EXIT_CODE
    assert "Traceback" in ended.stdout + ended.stderr
