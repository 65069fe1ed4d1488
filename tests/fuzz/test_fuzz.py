"""Random and mutated bodies for every call that changes something: no 5xx, no growth of memory, no response above the
limit of its route, and no accepted job that cannot run.

The API runs behind gunicorn, and requests are sent byte by byte. A share of the accepted jobs is run by a real worker.
`make fuzz` sends 100 000 bodies, the test suite about 500; GRADQ_FUZZ_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
from fuzz.job_bodies import job_messages
from fuzz.message import PROBLEM, Answer, Message
from fuzz.other_bodies import most_answer_bytes, other_messages
from fuzz.upload_bodies import BOMB_BYTES, upload_messages
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from support.service import Service

pytestmark = pytest.mark.long

FULL = os.environ.get("GRADQ_FUZZ") == "full"
JOBS, UPLOADS, OTHERS = (30_000, 20_000, 50_000) if FULL else (220, 140, 140)
TRAINED_JOBS, TRAINED_SETS = (200, 60) if FULL else (6, 3)  # at least, of the accepted ones
WARM_UP = 0.3  # of the bodies: then all modules are loaded and all pools are filled
GROWTH_BYTES = 30_000_000
SECONDS = 3000 if FULL else 200  # until all of them have been trained
HONEST = {"diverged", "deadline_exceeded", "data_error", "out_of_memory_host"}  # failures caused by the spec
SHOWN = 10
PROGRESS = 2500  # bodies between two lines about them


def _is_a_refusal(answer: Answer) -> bool:
    """Whether a 503 says that all places are taken."""
    return answer.status == 503 and answer.json()["code"] == "too_many_predictions"


@dataclass
class Run:
    """Sends the messages and collects errors in the responses."""

    service: Service
    url: str
    takes: bool = True  # whether a success makes a job or a dataset
    sent: int = 0
    answers: Counter[int | None] = field(default_factory=Counter)
    taken: dict[str, None] = field(default_factory=dict)  # ids of jobs or datasets, in their order
    wrong: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # memory of the API process, in bytes

    def send(self, message: Message) -> None:
        answer = message.send(self.url)
        self.sent += 1
        self.answers[answer and answer.status] += 1
        if complaint := self._complaint(message, answer):
            self.wrong.append(f"{complaint}\n    {message}")
        if self.sent % 25 == 0:
            self.sizes.append(self._size())
        if self.sent % PROGRESS == 0:
            print(f"{self.sent} bodies, {len(self.wrong)} wrong answers, API {self.sizes[-1] / 1e6:.0f} MB", flush=True)

    def _complaint(self, message: Message, answer: Answer | None) -> str | None:
        if answer is None:
            return None if message.framing in ("cut", "says more", "bad chunks") else "no answer"
        if len(answer.body) > most_answer_bytes(message.path):
            return f"an answer of {len(answer.body)} bytes"
        if not self.takes:
            return None if answer.status < 500 or _is_a_refusal(answer) else f"{answer.status}: {answer.body[:500]!r}"
        if answer.status >= 500:
            return f"{answer.status}: {answer.body[:500]!r}"
        if answer.status >= 400:
            told = answer.media_type == PROBLEM and answer.json()["status"] == answer.status and answer.json()["detail"]
            return None if told else f"{answer.status} is not a problem with a detail: {answer.body[:500]!r}"
        if answer.status not in (200, 201, 202):
            return f"an answer of {answer.status}"
        self.taken[answer.json()["id"]] = None
        return None

    def _size(self) -> int:
        (server,) = [part for part in self.service.parts if part.log.name == "api.log"]
        return sum(process.memory_info().rss for process in server.handle.children())

    def growth(self) -> int:
        """Growth of the API's memory after the warm-up, in bytes; a median of three, so that temporary buffers do not
        count."""
        settled = self.sizes[int(len(self.sizes) * WARM_UP) :]
        return sorted(settled[-3:])[1] - sorted(settled[:3])[1]

    def report(self, seed: int) -> str:
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(self.answers.items(), key=str))
        sizes = f"{self.sizes[0] / 1e6:.0f} MB at first, {self.sizes[-1] / 1e6:.0f} MB at last"
        return (
            f"seed {seed}: {self.sent} bodies: {counts}; API {sizes}, {self.growth() / 1e6:+.1f} MB after the warm-up"
        )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """An API in one process, without a worker at first, so that accepted jobs stay queued."""
    limits = {"GRADQ_MAX_UPLOAD_BYTES": "1000000", "GRADQ_MAX_UNPACKED_BYTES": str(BOMB_BYTES // 2)}
    service = Service(tmp_path, {**limits, "GRADQ_SLOTS": "2"}).start(workers=0)
    yield service
    service.close()


@pytest.fixture
def seed() -> int:
    if given := os.environ.get("GRADQ_FUZZ_SEED"):
        return int(given)
    return 1 if os.environ.get("CI") == "true" else random.randrange(2**32)


def fuzz(run: Run, messages: st.SearchStrategy[Message], count: int, seed: int) -> None:
    """Sends every draw and shrinks nothing, so that one run reports all errors."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(messages)
    def send(message: Message) -> None:
        run.send(message)

    send()
    print(run.report(seed))
    assert not run.wrong, f"seed {seed}: {len(run.wrong)} answers are wrong, among them\n" + "\n".join(
        run.wrong[:SHOWN]
    )
    assert run.sent >= count
    assert run.growth() <= GROWTH_BYTES, run.report(seed)
    log = run.service.log_of("api")
    assert "request failed" not in log
    assert "Traceback" not in log


@pytest.mark.timeout(36_000 if FULL else 300)
def test_no_body_causes_a_5xx_and_accepted_jobs_can_run(service: Service, seed: int) -> None:
    url = str(service.http.base_url)
    jobs, datasets = Run(service, url), Run(service, url)
    fuzz(jobs, job_messages(), JOBS, seed)
    fuzz(datasets, upload_messages(), UPLOADS, seed)
    assert_nothing_lies_about(service, list(datasets.taken))
    chosen = random.Random(seed)
    kept = [job for job in some(list(jobs.taken), 2 * TRAINED_JOBS, chosen) if can_be_afforded(service, job)]
    for job_id in set(jobs.taken) - set(kept):
        service.cancel(job_id)
    sets = some(list(datasets.taken), TRAINED_SETS, chosen)
    kept += [service.submit(dataset=dataset, epochs=1, max_seconds=20)["id"] for dataset in sets]
    assert len(kept) >= TRAINED_JOBS + TRAINED_SETS
    service.start_worker()
    ends = [ends_as_it_should(service, job_id) for job_id in kept]
    print(
        f"{len(jobs.taken)} jobs, {len(datasets.taken)} datasets taken; {len(kept)} run, {len(sets)} of these on sets"
    )
    assert not any(ends), "\n".join(end for end in ends if end)
    finished = service.wait(service.submit(epochs=1, max_seconds=20)["id"], SECONDS)
    assert finished["status"] == "succeeded"
    fuzz(Run(service, url, takes=False), other_messages(finished["id"]), OTHERS, seed)


def some(taken: list[str], count: int, chosen: random.Random) -> list[str]:
    return chosen.sample(taken, min(len(taken), count))


def can_be_afforded(service: Service, job_id: str) -> bool:
    """Whether this machine can run the job quickly. The spec in a job's response is itself a valid body."""
    spec = service.job(job_id)["spec"]
    answer = service.http.post("/v1/jobs?dry_run=true", json=spec)
    assert answer.status_code == 200, f"{answer.text}\n{spec}"
    cost = answer.json()
    return cost["estimated_seconds"] < 60 and cost["estimated_memory_bytes"] < 1e9 and spec["device"] != "cuda"


def ends_as_it_should(service: Service, job_id: str) -> str | None:
    """The error in the outcome of an accepted job; None if there is none."""
    job = service.wait(job_id, SECONDS)
    if job["status"] == "succeeded" or job["status_reason"]["code"] in HONEST:
        return None
    return f"{job['status_reason']}\n    {job['spec']}"


def assert_nothing_lies_about(service: Service, datasets: list[str]) -> None:
    """Refused uploads leave no files; accepted ones leave four arrays and their description."""
    uploads, stored = service.state / "uploads", service.state / "artifacts"
    assert not uploads.exists() or not list(uploads.rglob("*"))
    files = [path.relative_to(stored).parts for path in stored.rglob("*") if path.is_file()]
    assert {parts[:2] for parts in files} == {("datasets", dataset) for dataset in datasets}
    assert len(files) == 6 * len(datasets)
