"""A view's change: the change, its audit entry and its idempotency key in one transaction, then the doorbell
message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, jsonify
from sqlalchemy.orm import Session

from api.changes import audit_log
from api.changes.idempotency import settle
from api.services import services
from shared.jobs import joblog


def change(
    work: Callable[[Session], dict[str, Any]], *, status: int = 202, created: bool = False, rings: bool = False
) -> Response:
    """Run `work` in a transaction; return the response with the object that it returns. `created`: set the Location
    header to the object's path; `rings`: notify the workers."""
    with services().database.write() as session:
        body = work(session)
        if created or joblog.has_changed(session, body["id"]):  # to cancel a cancelled job changes nothing
            audit_log.note(session, body["id"], status)
        response = jsonify(body)
        response.status_code = status
        if created:
            response.headers["Location"] = body["links"]["self"]
        settle(session, response)
    if rings:
        # after the commit, so that workers find the row; an unreachable broker is not an error
        services().broker.ring()
    return response
