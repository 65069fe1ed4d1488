"""Small jobs per second, end to end: a batch of one-epoch digits jobs submitted at once, until the last has succeeded.

Claim: at least 6 per second on two cores. `stage_median_ms` has the duration of each stage of a job, from its log, and
`training_share` the training's share of the whole. For comparison: the same jobs run one after the other by `run_job`
in this process, without queue, fork and database (with all files written, and without files).
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from benchmarks.support import SMALL_JOB, milestones, parser, publish, say, seconds, service, summary, until_succeeded
from gradq import Client
from shared.events import Event
from shared.spec.job_spec import JobSpec
from worker.trainer import device
from worker.trainer.data import datasets
from worker.trainer.job import run_job
from worker.trainer.loop import train
from worker.trainer.run import Run

LEAST = 6.0
CLAIM = f"at least {LEAST:g} jobs a second end to end, all files written"
WARM_UP_JOBS = 4
CLIENTS = 8
STAGES = ("claimed", "forked", "first_step", "files", "succeeded")


def through_the_service(client: Client, count: int) -> tuple[float, float, list[dict[str, float]]]:
    """Seconds until the last job has succeeded, seconds until the last was accepted, and each job's milestones."""
    started = time.time()
    with ThreadPoolExecutor(CLIENTS) as pool:
        ids = [job["id"] for job in pool.map(client.submit, [SMALL_JOB] * count)]
    submitted = time.time() - started
    until_succeeded(client, ids)
    ended = max(seconds(client.job(job_id)["finished_at"]) for job_id in ids)
    return ended - started, submitted, [milestones(client.job(job_id).events()) for job_id in ids]


def in_process(count: int, files: bool) -> float:
    """Median seconds of a job without the service: the trainer alone, on one thread."""
    spec = JobSpec.parse(SMALL_JOB)
    took = []
    for _ in range(count + 1):  # the first one includes imports and font caches
        with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
            run = Run(Path(folder))
            started = time.perf_counter()
            if files:
                run_job(spec, run, ignore, data_dir=Path(folder), download=False, threads=1)
            else:
                where = device.choose(spec.device)
                device.set_up(spec.seed, where, 1, spec.deterministic)
                train(spec, datasets.prepare(spec, Path(folder), False, where), ignore, run)
            took.append(time.perf_counter() - started)
    return summary(took[1:], digits=4)["median"]


def ignore(event: Event) -> None:
    pass


def main() -> None:
    options = parser(__doc__, "throughput")
    options.add_argument("--jobs", type=int, default=40)
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    rates, accepted, jobs = [], [], []
    with service() as client:
        slots = sum(worker["slots"] for worker in client.workers())
        say(f"the service is ready, {slots} slots")
        through_the_service(client, WARM_UP_JOBS)
        for _ in range(asked.rounds):
            took, submitted, logs = through_the_service(client, asked.jobs)
            say(f"{asked.jobs} jobs in {took:.2f} s, accepted within {submitted:.2f} s")
            rates.append(asked.jobs / took)
            accepted.append(asked.jobs / submitted)
            jobs += logs
    whole, bare = in_process(10, files=True), in_process(10, files=False)
    stages = {
        f"{before} to {after}": summary([1000 * (job[after] - job[before]) for job in jobs])["median"]
        for before, after in pairwise(STAGES)
    }
    held = summary([1000 * (job["succeeded"] - job["claimed"]) for job in jobs])
    figures = {
        "jobs": asked.jobs,
        "rounds": asked.rounds,
        "slots": slots,
        "jobs_per_second": summary(rates, digits=2),
        "claim_holds": summary(rates, digits=2)["median"] >= LEAST,
        "accepted_per_second": summary(accepted),
        "slot_held_ms": held,
        "stage_median_ms": stages,
        "training_share": round(stages["first_step to files"] / held["median"], 3),
        "in_process_ms": {"with_files": round(1000 * whole, 1), "without_files": round(1000 * bare, 1)},
    }
    publish("throughput", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
