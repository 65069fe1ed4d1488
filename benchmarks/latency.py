"""From `POST /v1/jobs` to the first training step, on an idle worker.

Claim: half of all jobs take their first step within 100 ms of the request. In between the request is validated and
committed, the doorbell message is sent, a worker claims the row, a trainer is forked, the data is read and normalized,
the model is built, and its manual gradients are compared with autograd in float64.

For comparison: the same work in a fresh interpreter, `python -m worker.trainer spec.json`, as a script would do it.
Client and trainer run on the same machine, so their timestamps are comparable.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.support import SMALL_JOB, milestones, parser, publish, say, service, summary, until_succeeded
from gradq import Client
from shared.config import Settings

CLAIM = "median from POST to the first training step at most 100 ms on an idle worker"
LIMIT_MS = 100
WARM_UP_JOBS = 2
REST_SECONDS = 0.3  # between two jobs, so that the worker is idle
SCRIPT_RUNS = 3
STAGES = ("posted", "queued", "claimed", "forked", "first_step", "files", "succeeded")


def one_job(client: Client, dataset: str) -> dict[str, float]:
    """Submit and wait for the end; returns the job's milestones, and `posted` and `answered` from the client."""
    time.sleep(REST_SECONDS)
    posted = time.time()
    job_id = client.submit({**SMALL_JOB, "dataset": dataset})["id"]
    answered = time.time()
    until_succeeded(client, [job_id])
    return {"posted": posted, "answered": answered, **milestones(client.job(job_id).events())}


def fresh_interpreter(dataset: str) -> float:
    """Seconds from the start of `python -m worker.trainer` to its line about the first step."""
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(json.dumps({**SMALL_JOB, "dataset": dataset}))
        places = ["--out", f"{folder}/run", "--data", str(Settings.from_env().datasets_dir)]
        command = [sys.executable, "-u", "-m", "worker.trainer", str(spec), *places]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("first training step done"):
                    took = time.perf_counter() - started
    return took


def main() -> None:
    options = parser(__doc__, "latency")
    options.add_argument("--jobs", type=int, default=20)
    options.add_argument("--slots", type=int, help="slots of the service; by default its own choice")
    options.add_argument("--dataset", default="digits", help="mnist: with its files below GRADQ_DATA_DIR")
    asked = options.parse_args()
    scripts = [fresh_interpreter(asked.dataset) for _ in range(SCRIPT_RUNS)]
    say(f"a fresh interpreter: {min(scripts):.2f} to {max(scripts):.2f} s")
    slots = [] if asked.slots is None else ["--slots", str(asked.slots)]
    with service(*slots, GRADQ_DATA_DIR=str(Settings.from_env().datasets_dir)) as client:
        say("the service is ready")
        for _ in range(WARM_UP_JOBS):
            one_job(client, asked.dataset)
        runs = [one_job(client, asked.dataset) for _ in range(asked.jobs)]

    first_step = summary([1000 * (run["first_step"] - run["posted"]) for run in runs])
    script = summary([1000 * took for took in scripts])
    figures = {
        "jobs": asked.jobs,
        "dataset": asked.dataset,
        "first_step_ms": first_step,
        "succeeded_ms": summary([1000 * (run["succeeded"] - run["posted"]) for run in runs]),
        "answer_ms": summary([1000 * (run["answered"] - run["posted"]) for run in runs]),
        "stage_median_ms": {
            f"{before} to {after}": summary([1000 * (run[after] - run[before]) for run in runs])["median"]
            for before, after in pairwise(STAGES)
        },
        "fresh_interpreter_ms": script,
        "fresh_interpreter_over_service": round(script["median"] / first_step["median"], 1),
        "claim_holds": first_step["median"] <= LIMIT_MS,
    }
    publish("latency" if asked.dataset == "digits" else f"latency-{asked.dataset}", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
