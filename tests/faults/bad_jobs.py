"""Jobs that harm the worker that runs them."""

from __future__ import annotations

import signal
from typing import Any, ClassVar

from faults.fault import Fault
from faults.field import state_of


class BadJob(Fault):
    """Submitted until the API accepts it."""

    code: ClassVar[str]
    spec: ClassVar[dict[str, Any]]

    def strike(self) -> None:
        self.key = f"{self.code}-{self.random.getrandbits(64):x}"
        self.job_id = self.stream.submit_to_fail(self.key, self.code, **self.spec)

    def done(self) -> bool:
        if self.job_id is None:
            self.job_id = self.stream.submit_to_fail(self.key, self.code, **self.spec)
        return self.job_id is not None


class Hog(BadJob):
    """a job needs more memory than there is"""

    target, code = "hog", "out_of_memory_host"
    spec: ClassVar = {"architecture": {"type": "mlp", "hidden": [16_384] * 16}, "epochs": 1, "max_attempts": 20}


class Poison(BadJob):
    """a job kills its worker each time"""

    target, code = "poison", "too_many_attempts"
    spec: ClassVar = {"architecture": "linear", "epochs": 10_000, "batch_size": 16, "priority": 100, "max_attempts": 2}
    killed = 0

    def done(self) -> bool:
        if not super().done() or (job := state_of(self.field, str(self.job_id))) is None:
            return False
        if job["status"] == "running" and job["attempt"] > self.killed:
            if (worker := self.field.worker_of(job["attempts"][-1]["worker"])) is not None:
                worker.send(signal.SIGKILL)
            self.killed = job["attempt"]
        return bool(job["terminal"])
