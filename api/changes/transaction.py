"""How a view changes jobs: the change, its answer and the request's key in one transaction; then the bell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, jsonify
from sqlalchemy.orm import Session

from api.changes import audit_log
from api.changes.idempotency import settle
from api.services import services


def change(
    work: Callable[[Session], dict[str, Any]], *, status: int = 202, created: bool = False, rings: bool = False
) -> Response:
    """Answer with what `work` returns. `created`: the answer says where the new object lies."""
    with services().database.write() as session:
        body = work(session)
        audit_log.note(session, body["id"], status)
        response = jsonify(body)
        response.status_code = status
        if created:
            response.headers["Location"] = body["links"]["self"]
        settle(session, response)
    if rings:
        services().broker.ring()  # after the commit: whoever answers finds the row; a dead broker is no error
    return response
