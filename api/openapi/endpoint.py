"""The contract of each route, declared by the decorator `endpoint`: it both validates requests and documents them.

api/openapi/document.py makes the OpenAPI document from it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import request
from pydantic import BaseModel

from api.access.auth import needs
from api.http.requests import NoQuery, Query, check_headers, check_path, limit_body, parse_query
from api.services import services
from shared.tokens import Scope

View = Callable[..., Any]
JSON, FORM = "application/json", "multipart/form-data"
SAFE = ("GET", "HEAD", "OPTIONS")
NO_BODY_BYTES = 4096  # of calls that need no body: some clients send `{}`
SPEC_BYTES = 256 << 10  # of a job spec, whose labels may have 110 KB in their longest form
ANSWER_BYTES = 1 << 20


@dataclass(frozen=True)
class Contract:
    """What one route accepts and returns.

    answer         model of the JSON body of a success, None if the body is a file
    scope          scope that a token needs; None: the route needs no token
    status         HTTP status of a success
    query          model of the query parameters
    body, form     model of the request's JSON body; of its multipart form
    other_bodies   models or schemas of bodies that are accepted besides JSON, by media type
    body_bytes     limit of the request's body, or the name of the setting that has it
    answer_bytes   limit of a response in JSON: whatever is sent, no response to a change is larger
    media          media types of a success
    other_answers  models of the route's further kinds of success, by status
    errors         statuses of problems, in addition to those that every route has
    problems       codes by status, where they differ from `DEFAULTS` in api/openapi/problems.py
    takes          request headers, in addition to those implied by the fields below; a POST takes an Idempotency-Key
    headers        response headers that every success has
    sometimes      response headers that a success may have
    conditional    a success has an ETag, and If-None-Match is answered with 304
    ranges         Range is answered with 206
    name           operationId, where the one derived from the path would not read well
    """

    answer: type[BaseModel] | None
    scope: Scope | None
    status: int = 200
    query: type[Query] = NoQuery
    body: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    other_bodies: Mapping[str, type[BaseModel] | dict[str, Any]] = field(default_factory=dict)
    body_bytes: int | str = NO_BODY_BYTES
    answer_bytes: int = ANSWER_BYTES
    media: Sequence[str] = (JSON,)
    other_answers: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    errors: Sequence[int] = ()
    problems: Mapping[int, Sequence[str]] = field(default_factory=dict)
    takes: Sequence[str] = ()
    headers: Sequence[str] = ()
    sometimes: Sequence[str] = ()
    conditional: bool = False
    ranges: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        assert not self.takes_body or self.body_bytes != NO_BODY_BYTES, "a call that takes a body declares its limit"

    @property
    def takes_body(self) -> bool:
        return self.body is not None or self.form is not None or bool(self.other_bodies)

    @property
    def most_body_bytes(self) -> int:
        """The limit of the request's body."""
        limit: int = (
            getattr(services().settings, self.body_bytes) if isinstance(self.body_bytes, str) else self.body_bytes
        )
        return limit


def endpoint(answer: type[BaseModel] | None, *, scope: Scope | None, **contract: Any) -> Callable[[View], View]:
    """Decorator of a view: validates path, headers, the body's size and query before the view runs, and documents the
    route.

    Takes the fields of `Contract`. A view whose contract has a `query` receives it as keyword `query`; an unknown
    parameter is a 422. api/access/auth.py has checked the token before.
    """
    whole = Contract(answer, scope, **contract)

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def checked(**path: Any) -> Any:
            check_path(path)
            check_headers()
            if request.method not in SAFE and whole.form is None:  # api/uploads/multipart.py counts forms itself
                limit_body(whole.most_body_bytes)
            parsed = parse_query(whole.query)
            return view(**path) if whole.query is NoQuery else view(**path, query=parsed)

        checked.contract = whole  # type: ignore[attr-defined]
        return needs(scope)(checked)

    return decorate


@functools.cache
def openapi_path(rule: str) -> str:
    """A Flask rule, `/v1/jobs/<job_id>`, in OpenAPI's syntax: `/v1/jobs/{job_id}`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)
