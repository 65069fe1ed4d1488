"""The live workers and the jobs that run on each."""

from __future__ import annotations

from collections import Counter

from flask import Blueprint, Response, jsonify
from sqlalchemy import select

from api.access.auth import owner_filter
from api.http.render import timestamp, whole_list
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.services import services
from shared.db.tables import Job
from shared.jobs.states import JobState
from shared.workers import broker_of, job_kinds_of, live_workers

DEVICE_FACTS = ("kinds", "slots", "memory")

bp = Blueprint("workers", __name__)


@bp.get("/v1/workers")
@endpoint(schemas.WorkerList, scope="read", errors=(503,))
def index() -> Response:
    """List the live workers"""
    with services().database.read() as session:
        workers = live_workers(session, services().settings.lease_seconds)
        running: dict[str, list[str]] = {}
        others: Counter[str] = Counter()
        on_slots = select(Job.id, Job.worker, Job.owner).where(Job.state == JobState.RUNNING)
        for job_id, worker, owner in session.execute(on_slots):
            if owner_filter() in (None, owner):
                running.setdefault(worker, []).append(job_id)
            else:
                others[worker] += 1
    return jsonify(
        whole_list(
            [
                {
                    "object": "worker",
                    "id": worker.id,
                    "host": worker.host,
                    "pid": worker.pid,
                    "slots": worker.slots,
                    "free_slots": worker.free_slots,
                    "draining": worker.draining,
                    "outage": worker.outage,
                    "devices": {name: worker.devices[name] for name in DEVICE_FACTS if name in worker.devices},
                    "broker": broker_of(worker),
                    "job_kinds": job_kinds_of(worker),
                    "running": running.get(worker.id, []),
                    "others_running": others[worker.id],
                    "version": worker.version,
                    "started_at": timestamp(worker.started_at),
                    "seen_at": timestamp(worker.seen_at),
                }
                for worker in workers
            ]
        )
    )
