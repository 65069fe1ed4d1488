"""The jobs of a campaign: small ones of several kinds, a few at a time, and the result that each kind must have.

Each submission has an Idempotency-Key and is repeated with it until it is answered: the service has these jobs and no
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import Any

import httpx2
import numpy as np
from faults.field import Field
from support.images import npz, pixels

OPEN = 5  # unfinished jobs at a time: more than there are slots
MAX_ATTEMPTS = 20
UPLOADED = "uploaded"  # in place of the id of the dataset that the stream uploads
LARGE = "large model"  # trained once, for clients that download slowly

IDLE = ("retry_backoff", "store_unavailable")  # reasons to wait that the stream does not count as work
LARGE_SPEC: dict[str, Any] = {"architecture": {"type": "mlp", "hidden": [1024, 1024]}, "epochs": 1, "seed": 11}
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
    "mlp on uploaded images": {
        "dataset": UPLOADED,
        "architecture": {"type": "mlp", "hidden": [32]},
        "lr": 0.05,
        "epochs": 150,
        "batch_size": 8,
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
        self.field, self.seed, self.random = field, seed, Random(f"{seed} jobs")
        self.kinds = dict(islice(KINDS.items(), kinds))
        self.known: dict[str, Undisturbed] = {}
        self.accepted: dict[str, str] = {}  # job id -> kind
        self.open: set[str] = set()
        self.to_fail: dict[str, str] = {}  # job id -> the reason that it must fail with
        self.keys: dict[str, str] = {}  # Idempotency-Key -> job id: kept answers
        self.pending: dict[str, str] = {}  # Idempotency-Key -> kind, of submissions without an answer
        self.to_delete: set[str] = set()  # jobs whose deletion has been requested; it may have happened
        self.deleted: set[str] = set()
        self.large: str | None = None  # a job with large files
        self.dataset: str | None = None
        self.numbers = count()

    def learn(self, seconds: float = 300) -> None:
        """Run each kind once, before the first fault, and a job with large files."""
        self.dataset = self.upload(1)
        assert self.dataset is not None, "the API refuses an upload"
        ids = {kind: self.submit(kind) for kind in self.kinds}
        self.large = self._send(f"{self.seed}-large", {"name": LARGE, **LARGE_SPEC})
        assert self.large is not None
        self.accepted[self.large] = LARGE
        for kind, job_id in {**ids, LARGE: self.large}.items():
            assert job_id is not None
            job = self.field.wait(job_id, seconds)
            assert (job["status"], job["attempt"]) == ("succeeded", 1), job
            self.known[kind] = Undisturbed(job["result"]["weights_sha256"], curve_of(self.field.series(job_id)))
        self.open.clear()

    def upload(self, seed: int, http: httpx2.Client | None = None) -> str | None:
        """Upload a small dataset, a different one for each seed. Returns its id; None if it is not accepted now."""
        content = npz(x=pixels(120, 8, 8, seed=seed), y=np.arange(120) % 3)
        answer = (http or self.field.http).post("/v1/datasets", files={"file": ("images.npz", content)})
        return str(answer.json()["id"]) if answer.status_code in (200, 201) else None

    def submit(self, kind: str) -> str | None:
        """Submit a job of this kind. Returns its id; None without an answer: `tend` repeats it then."""
        key = f"{self.seed}-{next(self.numbers)}"
        self.pending[key] = kind
        return self._submit_pending(key)

    def _submit_pending(self, key: str) -> str | None:
        kind = self.pending[key]
        spec = {**SAVES, **KINDS[kind]}
        if spec.get("dataset") == UPLOADED:
            spec["dataset"] = self.dataset
        if (job_id := self._send(key, {"name": kind, "max_attempts": MAX_ATTEMPTS, **spec})) is not None:
            del self.pending[key]
            self.accepted[job_id] = kind
            self.open.add(job_id)
        return job_id

    def submit_to_fail(self, key: str, code: str, **spec: Any) -> str | None:
        """Submit a job that must fail with `code`. Returns None if the API does not accept it now."""
        if (job_id := self._send(key, {"name": code, **spec})) is not None:
            self.to_fail[job_id] = code
            self.open.add(job_id)
        return job_id

    def _send(self, key: str, body: dict[str, Any]) -> str | None:
        """Returns the id of the job that this key stands for; None if the API does not answer, or not now."""
        if self.field.far:
            return None  # a key that was used before the clock's jump would count as expired
        try:
            answer = self.field.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
        except httpx2.TransportError:
            return None
        assert answer.status_code in (202, 409, 429) or answer.status_code >= 500, answer.text
        if answer.status_code != 202:
            return None
        self.keys[key] = job_id = str(answer.json()["id"])
        return job_id

    def tend(self, most: int) -> None:
        """Submit jobs in the place of those that ended or wait for a retry, up to `most` jobs in all.

        If the API does not respond, the next call tries again.
        """
        for key in list(self.pending):
            if self._submit_pending(key) is None:
                return
        try:
            jobs = [self.field.job(job_id) for job_id in self.open]
        except (httpx2.TransportError, AssertionError):
            return  # it is dead or suspended, or responds with 503, as is to be expected in a campaign
        self.open -= {job["id"] for job in jobs if job["terminal"]}
        idle = sum(job["queue"] is not None and job["queue"]["reason"]["code"] in IDLE for job in jobs)
        for _ in range(min(OPEN + idle - len(self.open), most - len(self.accepted) - len(self.pending))):
            if self.submit(self.random.choice(list(self.kinds))) is None:
                return

    @property
    def settled(self) -> bool:
        """Whether every submission is answered and every job has ended."""
        return not self.open and not self.pending

    @property
    def ended(self) -> int:
        return len((self.accepted.keys() | self.to_fail) - self.open)


def curve_of(series: dict[str, Any]) -> dict[str, Any]:
    """The curve without its speed, which differs between runs."""
    return {name: points for name, points in series.items() if name != "examples_per_second"}
