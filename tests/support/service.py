"""The real parts of gradq as processes of one test: broker, API, workers, each started and killed by pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import httpx2
import psutil
from support.waiting import wait_for

from shared.db.database import Database

PATIENCE = 150  # seconds, for what takes a few: where 20 processes want two cores, each of them takes ten times as long
GRADQ = [sys.executable, "-m", "gradq"]


class Part:
    """One process and the processes that it starts. `out`: where its output goes, instead of to the log."""

    def __init__(self, arguments: list[str], env: dict[str, str], log: Path, out: IO[bytes] | None = None) -> None:
        self.log = log
        self.log_begins = log.stat().st_size if log.exists() else 0  # up to here it is an earlier process's
        with out or log.open("ab") as out:
            self.process = subprocess.Popen(arguments, env=env, stdout=out, stderr=out, start_new_session=True)
        self.handle = psutil.Process(self.process.pid)
        self.began = time.monotonic()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self.log_begins)
            return log.read().decode(errors="replace")

    def family(self) -> list[psutil.Process]:
        return [self.handle, *self.handle.children(recursive=True)] if self.handle.is_running() else []

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = PATIENCE) -> int:
        """Send SIGTERM and wait. Returns the exit code; raises TimeoutExpired."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(seconds)
        return self.process.returncode


class Service:
    """A private gradq in one folder. `environment` overrides settings: short leases make short tests."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.socket = folder / "b.sock"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")},
            "GRADQ_STATE_DIR": str(self.state),
            "GRADQ_REDIS_URL": f"redis+socket://{self.socket}",
            "GRADQ_LEASE_SECONDS": "4",
            "GRADQ_GRACE_SECONDS": "5",
            "GRADQ_RECONCILE_SECONDS": "0.5",
            "GRADQ_SLOTS": "1",
            "GRADQ_THREADS_PER_SLOT": "1",
            "GRADQ_DOWNLOAD": "false",
            **(environment or {}),
        }
        self.parts: list[Part] = []
        self.broker: Part | None = None
        self.http: httpx2.Client

    # --- parts --------------------------------------------------------------------------------------------------------

    def start(self, workers: int = 1) -> Service:
        self.migrate()
        self.start_broker()
        for _ in range(workers):
            self._gradq("worker")
        self.start_api()
        wait_for(lambda: len(self.live_workers()) == workers, PATIENCE, f"{workers} live workers")
        return self

    def migrate(self) -> None:
        """Migrate in this process, which is half a second faster than a command."""
        self.state.mkdir(mode=0o700, exist_ok=True)
        database = Database(self.env.get("GRADQ_DATABASE_URL", f"sqlite:///{self.state / 'gradq.db'}"))
        database.migrate()
        database.close()

    def mend(self) -> None:
        """Bring the service back to a broker, one worker and no queued, running or paused job."""
        if self.broker is None or not self.broker.alive:
            self.start_broker()
        for job in self.http.get("/v1/jobs", params={"status": "queued,running,paused", "limit": 100}).json()["data"]:
            self.http.post(f"/v1/jobs/{job['id']}/cancel")
        workers = [part for part in self.parts if part.log.name == "worker.log" and part.alive]
        for surplus in workers[:-1]:
            surplus.stop()
        if not workers:
            self._gradq("worker")
        wait_for(lambda: len(self.live_workers()) == 1, PATIENCE, "one live worker")

    def start_broker(self, wait: bool = True) -> Part:
        from gradq.local.broker_process import find_binary

        data = self.folder / "broker"
        data.mkdir(exist_ok=True)
        arguments = [find_binary(), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        self.broker = self._part([*arguments, "--dir", str(data), "--appendonly", "yes", "--save", ""], "broker")
        if wait:
            wait_for(self.broker_answers, PATIENCE, "the broker")
        return self.broker

    def broker_answers(self) -> bool:
        from shared.broker import Broker

        return Broker(self.env["GRADQ_REDIS_URL"]).ping()

    def start_api(self, processes: int = 1) -> Part:
        part = self._gradq("api", "--port", "0", "--workers", str(processes))
        url = wait_for(lambda: listening_url(part), PATIENCE, "the API's port")
        self.http = httpx2.Client(base_url=url, timeout=20)
        wait_for(self._api_answers, PATIENCE, "the API")
        return part

    def _api_answers(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    def start_worker(
        self, limit: Callable[[psutil.Process], object] | None = None, env: dict[str, str] | None = None
    ) -> Part:
        """Start a worker and wait for it. `limit` is applied before it starts processes; `env` overrides settings."""
        before = {w["id"] for w in self.live_workers()}
        part = self._gradq("worker", env=env)
        if limit is not None:
            limit(part.handle)
        wait_for(lambda: {w["id"] for w in self.live_workers()} - before, PATIENCE, "a new live worker")
        return part

    @property
    def worker(self) -> Part:
        """The worker that was started last."""
        return next(part for part in reversed(self.parts) if part.log.name == "worker.log" and part.alive)

    def _gradq(self, *arguments: str, env: dict[str, str] | None = None) -> Part:
        return self._part([*GRADQ, *arguments], arguments[0], env)

    def _part(self, arguments: list[str], name: str, env: dict[str, str] | None = None) -> Part:
        part = Part(arguments, {**self.env, **(env or {})}, self.folder / f"{name}.log")
        self.parts.append(part)
        return part

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """Stop everything. A process that remains is an orphan, and an error."""
        family = [p for part in self.parts for p in part.family()]
        for part in reversed(self.parts):
            if part.process.poll() is None:
                part.send(signal.SIGCONT)
                part.process.terminate()
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        for process in alive:
            process.kill()
        for part in self.parts:
            part.process.wait()
        shutil.rmtree(self.state, ignore_errors=True)
        assert not alive, f"still there after SIGTERM: {alive}"

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    def submit(self, **body: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def cancel(self, job_id: str) -> dict[str, Any]:
        answer = self.http.post(f"/v1/jobs/{job_id}/cancel")
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def wait_until(self, job_id: str, holds: Callable[[dict[str, Any]], Any], seconds: float, what: str) -> Any:
        return wait_for(lambda: (job := self.job(job_id)) and holds(job) and job, seconds, what)

    def wait(self, job_id: str, seconds: float = PATIENCE) -> dict[str, Any]:
        job: dict[str, Any] = self.wait_until(job_id, lambda job: job["terminal"], seconds, f"the end of {job_id}")
        return job

    def events(self, job_id: str, type: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            query = {"after": after, "limit": 1000, **({"type": type} if type else {})}
            page = self.http.get(f"/v1/jobs/{job_id}/events", params=query).json()
            found += page["data"]
            if not page["has_more"]:
                return found
            after = page["next_after"]

    def series(self, job_id: str) -> dict[str, list[list[float]]]:
        series: dict[str, list[list[float]]] = self.http.get(f"/v1/jobs/{job_id}/metrics?max_points=1000000").json()[
            "series"
        ]
        return series

    def artifacts(self, job_id: str) -> dict[str, dict[str, Any]]:
        return {a["name"]: a for a in self.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]}

    def live_workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.http.get("/v1/workers").json()["data"]
        return workers

    # --- trainers -----------------------------------------------------------------------------------------------------

    def trainer(self, job_id: str, attempt: int = 1) -> psutil.Process:
        """The process that trains this attempt, once its pid is in the log."""

        def started() -> dict[str, Any] | None:
            lines = [e for e in self.events(job_id, "log") if e["message"] == "trainer started"]
            return next((e for e in lines if e["attempt"] == attempt), None)

        event = wait_for(started, PATIENCE, f"the trainer of attempt {attempt}")
        return psutil.Process(event["data"]["pid"])

    def wait_for_checkpoint(self, job_id: str, attempt: int = 1) -> dict[str, Any]:
        def stored() -> dict[str, Any] | None:
            return next((e for e in self.events(job_id, "checkpoint") if e["attempt"] == attempt), None)

        event: dict[str, Any] = wait_for(stored, PATIENCE, f"a checkpoint of attempt {attempt}")
        return event


def listening_url(part: Part) -> str | None:
    """The URL in gunicorn's log; None if it is not there yet."""
    for line in part.said().splitlines():
        if "Listening at: " in line:
            return line.split("Listening at: ")[1].split()[0]
    assert part.alive, part.said()
    return None


def assert_whole_curve(service: Service, job: dict[str, Any]) -> None:
    """Every point that the contract promises is there once, in order: no gap and no duplicate."""
    series = service.series(job["id"])
    epochs, total = job["spec"]["epochs"], job["progress"]["total_steps"]
    per_epoch = total // epochs
    assert [p[0] for p in series["train_loss"]] == [per_epoch * (e + 1) for e in range(epochs)]
    assert [p[1] for p in series["train_loss"]] == [e + 1 for e in range(epochs)]
    assert [p[0] for p in series["batch_loss"]] == list(range(50, total + 1, 50))
    assert [p[0] for p in series["test_accuracy"]] == [total]
    assert all(len(series[name]) == epochs for name in ("val_loss", "val_accuracy", "lr", "examples_per_second"))
