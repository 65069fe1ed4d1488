"""Shared by the benchmarks: a description of the machine, one line of JSON, a private service."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gradq import Client, Event
from gradq.local.broker_process import embedded_broker
from shared.config import Settings

RESULTS = Path(__file__).parent / "results"
READY_SECONDS, STOP_SECONDS = 60.0, 30.0
POLL_SECONDS = 0.05
SMALL_JOB = {"dataset": "digits", "architecture": "mlp", "gradients": "manual", "epochs": 1, "device": "cpu"}

Figures = dict[str, Any]


# --- reporting --------------------------------------------------------------------------------------------------------


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with the option that all benchmarks have: --save."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc)
    made.add_argument("--save", action="store_true", help=f"also write benchmarks/results/{name}-<today>.json")
    return made


def publish(name: str, claim: str, figures: Figures, save: bool) -> None:
    """Print one line of JSON to stdout; with `save`, also write it to a dated file."""
    line = {"benchmark": name, "claim": claim, **figures, "machine": machine()}
    print(json.dumps(line, allow_nan=False), flush=True)
    if save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps(line, indent=2, allow_nan=False) + "\n")
        say(f"saved {path.name}")


def say(text: str) -> None:
    """Print progress to stderr, since stdout holds only the line of JSON."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Hardware and versions that the figures depend on; no names of hosts, users or paths."""
    libraries = ("gradq", "torch", "numpy", "scikit-learn")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),  # includes other processes
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def summary(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, 95th percentile (nearest rank), extremes."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    named = {"median": median, "p95": p95, "min": ordered[0], "max": ordered[-1]}
    return {name: round(value, digits) for name, value in named.items()}


# --- a private service ------------------------------------------------------------------------------------------------


@contextmanager
def service(*arguments: str, **settings: str) -> Iterator[Client]:
    """`gradq up` on a free port, in a folder that is deleted when the block ends. `settings`: GRADQ_…=value."""
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as state:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
        environment |= settings
        command = [sys.executable, "-m", "gradq", "up", "--port", "0", "--state", state, *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            with Client(address(process)) as client:
                yield client
        finally:
            process.terminate()
            process.communicate(timeout=STOP_SECONDS)


@contextmanager
def api(*arguments: str, **settings: str) -> Iterator[Client]:
    """A broker and `gradq api` with its default settings; no worker, so that queued jobs do not run."""
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as state:
        broker = embedded_broker(Settings(state_dir=Path(state)))
        assert broker is not None, "no other was named"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
        environment |= {"GRADQ_STATE_DIR": state, "GRADQ_REDIS_URL": broker.url, **settings}
        gradq = [sys.executable, "-m", "gradq"]
        subprocess.run([*gradq, "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
        log = Path(state) / "api.log"
        with log.open("wb") as out, contextlib.ExitStack() as stack:
            server = stack.enter_context(subprocess.Popen(broker.command, stdout=subprocess.DEVNULL))
            stack.callback(server.terminate)
            process = stack.enter_context(
                subprocess.Popen([*gradq, "api", "--port", "0", *arguments], env=environment, stderr=out)
            )
            stack.callback(process.terminate)
            with Client(listening(log)) as client:
                while not client.ready():
                    time.sleep(POLL_SECONDS)
                yield client


def listening(log: Path) -> str:
    """The URL that gunicorn logs. Raises SystemExit if it does not start within `READY_SECONDS`."""
    deadline = time.monotonic() + READY_SECONDS
    while not (found := re.search(r"Listening at: (\S+)", log.read_text())):
        if time.monotonic() > deadline:
            raise SystemExit(f"the API does not start:\n{log.read_text()}")
        time.sleep(POLL_SECONDS)
    return found[1]


def address(process: subprocess.Popen[str]) -> str:
    """The URL in the line `ready http://…`, which the service prints once it accepts jobs."""
    assert process.stdout is not None
    patience = threading.Timer(READY_SECONDS, process.terminate)
    patience.start()
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                return line.split()[1]
    finally:
        patience.cancel()
    raise SystemExit(f"the service ended with exit code {process.wait()} and was never ready")


def until_succeeded(client: Client, job_ids: Sequence[str]) -> None:
    """Poll every 50 ms until all jobs have succeeded. Raises SystemExit if one ends otherwise."""
    waiting = list(job_ids)
    while waiting:
        job = client.job(waiting[-1])
        if not job["terminal"]:
            time.sleep(POLL_SECONDS)
        elif job["status"] == "succeeded":
            waiting.pop()
        else:
            raise SystemExit(f"{job['id']} {job['status']}: {job['status_reason']}")


# --- times from a job's log -------------------------------------------------------------------------------------------


def milestones(events: Sequence[Event]) -> dict[str, float]:
    """Seconds since 1970 of a job's `queued`, `claimed`, `forked`, `first_step`, `files` and `succeeded`.

    `files` is the end of the training: until `succeeded` the trainer draws and writes its files.
    """
    found: dict[str, float] = {}
    for event in events:
        if name := _milestone(event):
            found[name] = seconds(event.created_at)
    return found


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _milestone(event: Event) -> str | None:
    if event.type == "status":
        return {"queued": "queued", "running": "claimed", "succeeded": "succeeded"}.get(event.status or "")
    if event.type == "metric" and event.data["series"] == "final":
        return "files"
    return {"trainer started": "forked", "first training step done": "first_step"}.get(event.message)
