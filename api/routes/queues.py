"""The queues: what waits for which kind of device, and why."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from api.http.render import timestamp_or_none, whole_list
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from api.services import services
from shared.jobs import queue_status

bp = Blueprint("queues", __name__)


@bp.get("/v1/queues")
@endpoint(schemas.QueueList, scope="read", errors=(503,))
def index() -> Response:
    """List the queues: one for each device wish that a job has or a live worker grants"""
    settings = services().settings
    with services().database.read() as session:
        queues = queue_status.queues(session, settings.lease_seconds, settings.max_running_jobs)
    return jsonify(
        whole_list(
            [
                {
                    "object": "queue",
                    "name": queue.device,
                    "queued": queue.queued,
                    "running": queue.running,
                    "paused": queue.paused,
                    "oldest_queued_at": timestamp_or_none(queue.oldest_queued_at),
                    "slots": queue.slots,
                    "free_slots": queue.free_slots,
                    "reasons": queue.reasons,
                }
                for queue in queues
            ]
        )
    )
