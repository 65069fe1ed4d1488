"""The jobs of a campaign: small ones of several kinds, a few at a time, and the result that each kind must have."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import httpx2
from faults.field import Field

OPEN = 5  # unfinished jobs at a time: more than there are slots
MAX_ATTEMPTS = 20

SAVES: dict[str, Any] = {"checkpoint": {"every_seconds": 0.3}, "batch_size": 16, "seed": 11}
KINDS: dict[str, dict[str, Any]] = {
    "linear by hand": {"architecture": "linear", "gradients": "manual", "lr": 0.05, "epochs": 60, "batch_size": 4},
    "mlp, dropout, cosine": {
        "architecture": {"type": "mlp", "hidden": [64], "activation": "gelu", "dropout": 0.2},
        "optimizer": "adam",
        "schedule": {"type": "cosine", "warmup_epochs": 1},
        "lr": 0.002,
        "epochs": 50,
    },
    "cnn by hand": {
        "architecture": {"type": "cnn", "channels": [4], "kernel": 3, "hidden": [16]},
        "gradients": "manual",
        "lr": 0.02,
        "epochs": 8,
    },
    "mlp by hand, momentum, steps": {
        "architecture": {"type": "mlp", "hidden": [40, 20], "activation": "tanh", "batch_norm": True},
        "gradients": "manual",
        "optimizer": {"type": "sgd", "momentum": 0.9, "nesterov": True},
        "schedule": {"type": "step", "every_epochs": 10, "gamma": 0.5},
        "lr": 0.01,
        "epochs": 40,
    },
    "cnn, augmented, one cycle": {
        "architecture": {"type": "cnn", "channels": [4, 8], "kernel": 3, "hidden": [16], "dropout": 0.1},
        "augment": [{"type": "shift", "pixels": 1}],
        "schedule": {"type": "onecycle"},
        "optimizer": "adamw",
        "lr": 0.01,
        "epochs": 6,
    },
    "linear, early stop": {
        "architecture": "linear",
        "lr": 0.5,
        "epochs": 400,
        "early_stopping": {"metric": "val_loss", "patience_epochs": 30, "min_delta": 0},
    },
}


@dataclass(frozen=True)
class Undisturbed:
    """The result of a kind of job without faults, which every run of it must have."""

    weights_sha256: str
    curve: dict[str, list[list[float]]]


class Stream:
    def __init__(self, field: Field, seed: int, kinds: int = len(KINDS)) -> None:
        self.field, self.random = field, Random(f"{seed} jobs")
        self.kinds = dict(islice(KINDS.items(), kinds))
        self.known: dict[str, Undisturbed] = {}
        self.accepted: dict[str, str] = {}  # job id -> kind
        self.open: set[str] = set()
        self.to_fail: dict[str, str] = {}  # job id -> the reason that it must fail with

    def learn(self, seconds: float = 120) -> None:
        """Run each kind once, before the first fault."""
        ids = {kind: self.submit(kind) for kind in self.kinds}
        for kind, job_id in ids.items():
            job = self.field.wait(job_id, seconds)
            assert (job["status"], job["attempt"]) == ("succeeded", 1), job
            self.known[kind] = Undisturbed(job["result"]["weights_sha256"], curve_of(self.field.series(job_id)))
        self.open.clear()

    def submit(self, kind: str) -> str:
        job_id: str = self.field.submit(name=kind, max_attempts=MAX_ATTEMPTS, **{**SAVES, **KINDS[kind]})["id"]
        self.accepted[job_id] = kind
        self.open.add(job_id)
        return job_id

    def submit_to_fail(self, code: str, **spec: Any) -> str | None:
        """Submit a job that must fail with `code`. Returns None if the API does not accept it now."""
        try:
            job_id: str = self.field.submit(name=code, **spec)["id"]
        except (httpx2.TransportError, AssertionError):
            return None
        self.to_fail[job_id] = code
        self.open.add(job_id)
        return job_id

    def tend(self, most: int) -> None:
        """Submit jobs in the place of those that ended or wait for a retry, up to `most` jobs in all.

        If the API does not respond, the next call tries again.
        """
        try:
            jobs = [self.field.job(job_id) for job_id in self.open]
            self.open -= {job["id"] for job in jobs if job["terminal"]}
            idle = sum(job["queue"] is not None and job["queue"]["reason"]["code"] == "retry_backoff" for job in jobs)
            for _ in range(min(OPEN + idle - len(self.open), most - len(self.accepted))):
                self.submit(self.random.choice(list(self.kinds)))
        except (httpx2.TransportError, AssertionError):
            return  # it is dead or suspended, or responds with 503, as is to be expected in a campaign

    @property
    def ended(self) -> int:
        return len((self.accepted.keys() | self.to_fail) - self.open)


def curve_of(series: dict[str, Any]) -> dict[str, Any]:
    """The curve without its speed, which differs between runs."""
    return {name: points for name, points in series.items() if name != "examples_per_second"}
