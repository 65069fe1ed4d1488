"""Requests per second of `gradq api` with its default settings: two processes, SQLite, 16 busy connections.

Claim: at least 1400 `GET /v1/jobs/{id}` of a finished job per second, its whole result included; at least 200 submits
per second. For comparison: the same with `If-None-Match`, as a client polls that caches the job; and `runs/get` of
MLflow for a run with as many metrics, if mlflow is installed. wrk sends the requests and uses the same cores; `cpu_us`
is the server's CPU time per request, which does not depend on other processes.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil

from benchmarks.support import SMALL_JOB, Figures, api, parser, publish, say, service, summary, until_succeeded

CLAIM = "at least 1400 answers to GET /v1/jobs/{id} and 200 submits a second, 16 connections, two processes"
POLLS, SUBMITS = 1400, 200
CONNECTIONS = 16
API, MLFLOW = "api.app:create_app()", "mlflow.server"
POST = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [[{body}]]
"""
MLFLOW_PORT, MLFLOW_SECONDS = 5997, 60.0


def main() -> None:
    options = parser(__doc__, "polling")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=4.0, help="duration of each round")
    asked = options.parse_args()
    if shutil.which("wrk") is None:
        say("skipped: this benchmark needs wrk, which is not installed (Debian, Ubuntu: apt install wrk)")
        return
    with service() as client:
        job_id = client.submit(SMALL_JOB)["id"]
        until_succeeded(client, [job_id])
        url = f"{client.url}/v1/jobs/{job_id}"
        answer = httpx2.get(url)
        say(f"a finished job of {len(answer.content)} bytes")
        polls = rounds(asked, url, API)
        known = rounds(asked, url, API, "-H", f"If-None-Match: {answer.headers['ETag']}")
    with api() as client, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(POST.format(body=json.dumps(SMALL_JOB)))
        submits = rounds(asked, f"{client.url}/v1/jobs", API, "-s", str(script))
    figures: Figures = {
        "connections": CONNECTIONS,
        "rounds": asked.rounds,
        "body_bytes": len(answer.content),
        "job": polls,
        "job_not_modified": known,
        "submit": submits,
        "mlflow_run": mlflow(asked),
        "claim_holds": polls["per_second"]["median"] >= POLLS and submits["per_second"]["median"] >= SUBMITS,
    }
    publish("polling", CLAIM, figures, asked.save)


def rounds(asked: object, url: str, server: str, *options: str) -> Figures:
    """A summary of each figure over the rounds, after a first round that warms up caches."""
    found = [one_round(asked.seconds if i else 1.0, url, server, *options) for i in range(asked.rounds + 1)][1:]
    figures = {name: summary([each[name] for each in found]) for name in found[0]}
    say(f"{url.rpartition('/v1')[2][:12]}… {' '.join(options)[:20]}: {figures['per_second']['median']:.0f} per second")
    return figures


def one_round(seconds: float, url: str, server: str, *options: str) -> dict[str, float]:
    """Requests per second, the 50th and 99th percentile of their latency, the server's CPU time per request."""
    before = cpu_seconds(server)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", *options, url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = cpu_seconds(server) - before
    if "Non-2xx or 3xx" in said or "Socket errors" in said:
        raise SystemExit(f"some requests failed:\n{said}")
    count = int(re.search(r"(\d+) requests in", said)[1])
    return {
        "per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),
        **{f"p{p}_ms": milliseconds(re.search(rf"\n\s+{p}%\s+(\S+)", said)[1]) for p in (50, 99)},
        "cpu_us": 1e6 * spent / count,
    }


def milliseconds(text: str) -> float:
    """Milliseconds from wrk's `512.00us`, `3.47ms` or `1.20s`."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def cpu_seconds(server: str) -> float:
    """CPU seconds used so far by the processes of the server that this benchmark started."""
    ours = psutil.Process().children(recursive=True)
    return sum(sum(child.cpu_times()[:2]) for child in ours if server in " ".join(child.cmdline()))


# --- MLflow, if it is installed ---------------------------------------------------------------------------------------


def mlflow(asked: object) -> Figures | None:
    if importlib.util.find_spec("mlflow") is None:
        say("mlflow is not installed: no comparison")
        return None
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder, mlflow_server(folder) as url:
        run = httpx2.post(f"{url}/runs/create", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"]
        for i in range(12):
            metric = {"run_id": run, "key": f"metric_{i}", "value": 0.1, "timestamp": 1, "step": 1}
            httpx2.post(f"{url}/runs/log-metric", json=metric).raise_for_status()
        return rounds(asked, f"{url}/runs/get?run_id={run}", MLFLOW)


@contextmanager
def mlflow_server(folder: str) -> Iterator[str]:
    """MLflow's server with two processes and SQLite, as gradq's; yields the URL of its API."""
    where = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "2", "--port", str(MLFLOW_PORT))
    process = subprocess.Popen(
        [sys.executable, "-m", MLFLOW.split(".")[0], "server", *where], stderr=subprocess.DEVNULL
    )
    url, deadline = f"http://127.0.0.1:{MLFLOW_PORT}", time.monotonic() + MLFLOW_SECONDS
    try:
        while not answers(url):
            if time.monotonic() > deadline:
                raise SystemExit("mlflow is installed, but its server does not respond")
            time.sleep(0.2)
        yield f"{url}/api/2.0/mlflow"
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").status_code == 200
    except httpx2.TransportError:
        return False


if __name__ == "__main__":
    main()
