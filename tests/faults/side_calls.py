"""What clients do beside the stream of jobs, all through a campaign: predictions, uploads, deletions, one and many.

Each job is audited before it is deleted. A deletion without an answer may have happened, and is repeated until it is
answered. All in one thread, with its own connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from typing import Any

import httpx2
from faults.audit import audit_job
from faults.field import Field
from faults.stream import LARGE, Stream

from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import DatabaseAway

EVERY_SECONDS = 0.4
KEEP = 8  # ended jobs that are not deleted, so that there is always something to predict with
KEEP_DATASETS = 4
MOST = 8  # jobs per deletion of many
PATIENCE_SECONDS = 15.0  # with an API whose store is slow
LAST_SECONDS = 120.0
GONE = (200, 404)


class SideCalls(threading.Thread):
    def __init__(self, field: Field, stream: Stream) -> None:
        super().__init__(name="side-calls", daemon=True)
        self.field, self.stream = field, stream
        self.random = Random(f"{stream.seed} side calls")
        self.http = field.client(PATIENCE_SECONDS)
        self.database = Database(field.address())
        self.stopped = threading.Event()
        self.datasets: set[str] = set()  # uploaded and not deleted
        self.to_delete: set[str] = set()  # datasets whose deletion has been requested
        self.deleted_datasets: set[str] = set()
        self.uploads = 1  # the stream's own
        self.answers: dict[str, Any] = {}  # kind -> what its model predicts
        self.counts = {"predictions": 0, "uploads": 0, "deleted jobs": 0, "deleted datasets": 0}

    def run(self) -> None:
        """Make random calls until `stop`."""
        calls = [self.predict, self.predict, self.upload, self.delete_dataset, self.delete_job, self.delete_jobs]
        while not self.stopped.wait(EVERY_SECONDS):
            self.call(self.random.choice(calls))
        self.http.close()

    def call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (httpx2.TransportError, DatabaseAway):
            return  # as is to be expected in a campaign
        except Exception as error:
            self.field.find(f"{call.__name__}: {type(error).__name__}: {error}")

    def stop(self) -> None:
        self.stopped.set()
        self.join(LAST_SECONDS)
        if self.is_alive():
            self.field.find(f"a call of clients has had no end for {LAST_SECONDS:g} s")

    # --- predictions and uploads --------------------------------------------------------------------------------------

    def ended(self) -> list[str]:
        """The jobs that have ended well and may be deleted, oldest first."""
        stream = self.stream
        gone = stream.open | stream.to_delete | stream.deleted
        return [job_id for job_id, kind in list(stream.accepted.items()) if job_id not in gone and kind != LARGE]

    def predict(self) -> None:
        """Equal weights predict alike: a model is whole, or there is an error."""
        if not (jobs := self.ended()):
            return
        job_id = self.random.choice(jobs)
        images = [[[(x * y + shift) % 17 / 16 for x in range(8)] for y in range(8)] for shift in range(3)]
        answer = self.http.post(f"/v1/jobs/{job_id}/predict", json={"images": images})
        if answer.status_code == 200:
            self.counts["predictions"] += 1
            kind = self.stream.accepted[job_id]
            first = self.answers.setdefault(kind, answer.json()["predictions"])
            if answer.json()["predictions"] != first:
                self.field.find(f"the model of {job_id} ({kind}) predicts otherwise than an equal one")
        elif answer.status_code not in (404, 409, 429) and answer.status_code < 500:
            self.field.find(f"a prediction with {job_id} was answered {answer.status_code}: {answer.text[:200]}")

    def upload(self) -> None:
        if len(self.datasets) >= KEEP_DATASETS:
            return
        self.uploads += 1
        if (dataset := self.stream.upload(self.uploads, self.http)) is not None:
            self.counts["uploads"] += 1
            self.datasets.add(dataset)

    # --- deletions ----------------------------------------------------------------------------------------------------

    def delete_dataset(self) -> None:
        if not self.to_delete and len(self.datasets) > 1:
            self.to_delete.add(self.random.choice(sorted(self.datasets)))
        for dataset in list(self.to_delete):
            self.datasets.discard(dataset)
            if self.http.delete(f"/v1/datasets/{dataset}").status_code in GONE:
                self.to_delete.discard(dataset)
                self.deleted_datasets.add(dataset)
                self.counts["deleted datasets"] += 1

    def delete_job(self) -> None:
        for job_id in self._chosen(1):
            if self.http.delete(f"/v1/jobs/{job_id}").status_code in GONE:
                self._note_deleted([job_id])

    def delete_jobs(self) -> None:
        if not (ids := self._chosen(MOST)):
            return
        answer = self.http.post("/v1/jobs/bulk", json={"action": "delete", "ids": ids})
        if answer.status_code == 200:
            outcomes = answer.json()["data"]
            refused = [one for one in outcomes if not one["ok"] and one["error"]["code"] != "not_found"]
            if refused:
                self.field.find(f"jobs that have ended were not deleted: {refused[:2]}")
            self._note_deleted([one["id"] for one in outcomes if one not in refused])

    def _chosen(self, most: int) -> list[str]:
        """Jobs to delete: those without an answer first, then audited ones, the oldest of more than KEEP."""
        stream = self.stream
        if stream.to_delete:
            return sorted(stream.to_delete)[:most]
        ids = self.ended()[: -KEEP or None][:most]
        with self.database.read() as session:
            for job_id in ids:
                job = session.get(Job, job_id)
                for wrong in ["does not exist"] if job is None else audit_job(session, job, stream, self.field.store()):
                    self.field.find(f"{job_id} ({stream.accepted[job_id]}): {wrong}")
        stream.to_delete |= set(ids)
        return ids

    def _note_deleted(self, ids: list[str]) -> None:
        self.stream.to_delete -= set(ids)
        self.stream.deleted |= set(ids)
        self.counts["deleted jobs"] += len(ids)

    def settle(self) -> bool:
        """Repeat the deletions without an answer, once; whether there is none left. To be called after `stop`."""
        with self.field.client(PATIENCE_SECONDS) as self.http:
            if self.stream.to_delete:
                self.call(self.delete_job)
            if self.to_delete:
                self.call(self.delete_dataset)
        return not self.stream.to_delete and not self.to_delete
