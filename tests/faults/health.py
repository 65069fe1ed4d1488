"""Whether the API answers /healthz within a second whatever happens, except while it is itself killed or suspended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROMISED_SECONDS = float(os.environ.get("HEALTHZ_SECONDS", "1"))  # longer beside other tests, which take the cores
BACK_SECONDS = 60.0  # for a killed API to start again, on a busy machine


@dataclass(frozen=True)
class Probe:
    """`at` is the monotonic clock; `late`: the seconds of `seconds` in which the prober was not run."""

    at: float
    seconds: float
    status: int
    late: float = 0.0

    @property
    def good(self) -> bool:
        return self.status == 200 and self.seconds - self.late <= PROMISED_SECONDS

    @property
    def until(self) -> float:
        return self.at + self.seconds


@dataclass
class Away:
    """A time in which a fault is applied to the API itself."""

    since: float
    until: float | None = None  # None: it is still applied


class Health:
    """The prober's process, and what it found. `away` and `back` are called around each fault of the API itself."""

    def __init__(self, port: int, file: Path) -> None:
        self.port, self.file = port, file
        self.aways: list[Away] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        prober = str(Path(__file__).with_name("prober.py"))
        self.process = subprocess.Popen([sys.executable, prober, str(self.port), str(self.file)])

    def away(self) -> None:
        """A fault of the API itself begins."""
        self.aways.append(Away(time.monotonic()))

    def back(self) -> None:
        """It has ended. At most one is applied at a time, since they have the same target."""
        self.aways[-1].until = time.monotonic()

    def probes(self) -> list[Probe]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [Probe(**json.loads(line)) for line in lines if line.endswith("}")]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def unexcused(probes: list[Probe], aways: list[Away]) -> Iterator[Probe]:
    """The probes without an answer within a second at a time when no fault was applied to the API itself.

    A fault excuses the probes from its start to the first good probe after its end, for at most BACK_SECONDS.
    """
    good = [probe for probe in probes if probe.good]
    spans = []
    for away in aways:
        until = float("inf") if away.until is None else away.until
        first = next((probe.until for probe in good if probe.at >= until), float("inf"))
        spans.append((away.since, min(first, until + BACK_SECONDS)))
    for probe in probes:
        if not probe.good and not any(probe.until >= since and probe.at <= until for since, until in spans):
            yield probe


def summary(probes: list[Probe]) -> str:
    """The distribution of the answers' seconds, the prober's own lateness taken off."""
    seconds = sorted(probe.seconds - probe.late for probe in probes if probe.status == 200)
    if not seconds:
        return "no answer"
    at = lambda share: 1000 * seconds[min(int(share * len(seconds)), len(seconds) - 1)]
    return f"{len(seconds)} of {len(probes)} answered: p50 {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms, max {at(1):.0f} ms"


def violations(probes: list[Probe], aways: list[Away], began: float) -> Iterator[str]:
    """One line for each run of probes that are not excused. `began`: when the campaign's faults did."""
    run: list[Probe] = []
    known = {id(probe) for probe in unexcused(probes, aways)}
    for probe in [*probes, None]:
        if probe is not None and id(probe) in known:
            run.append(probe)
        elif run:
            longest = max(run, key=lambda one: one.seconds)
            how = f"status {longest.status}" if longest.status else "no answer"
            yield (
                f"/healthz at {run[0].at - began:.1f} s: {len(run)} probes without an answer within "
                f"{PROMISED_SECONDS:g} s, the longest {longest.seconds:.1f} s ({how})"
            )
            run = []
