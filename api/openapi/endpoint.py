"""Each route's contract, declared where the view stands: what `endpoint` is told is both checked and documented.

api/openapi/document.py makes the OpenAPI document of it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from api.access.auth import needs
from api.http.requests import NoQuery, Query, check_headers, check_path, parse_query
from shared.tokens import Scope

View = Callable[..., Any]
JSON, FORM = "application/json", "multipart/form-data"


@dataclass(frozen=True)
class Contract:
    """What one route takes and gives.

    `scope`: what a token has to allow; None: the route is open to all. `answer`: the model of the JSON that a success
    (`status`) holds; `media`: what else it may be. `other_answers`: by status, where the route has two kinds of
    success. `other_bodies`: models or schemas of what may be sent instead of JSON, by media type. `errors`: the
    statuses of refusals, beside those that every route has; `problems` their codes, where they are not those that
    `DEFAULTS` in api/openapi/problems.py gives the status. `takes`: headers of the request, beside those that the rest
    implies; a POST takes an Idempotency-Key. `headers` always come with a success, `sometimes` only where they apply.
    `conditional`: it has an ETag, and If-None-Match is answered with 304; `ranges`: Range with 206. `name`: the
    operationId, where the one made of the path would not read well.
    """

    answer: type[BaseModel] | None
    scope: Scope | None
    status: int = 200
    query: type[Query] = NoQuery
    body: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    other_bodies: Mapping[str, type[BaseModel] | dict[str, Any]] = field(default_factory=dict)
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

    @property
    def takes_body(self) -> bool:
        return self.body is not None or self.form is not None or bool(self.other_bodies)


def endpoint(answer: type[BaseModel] | None, *, scope: Scope | None, **contract: Any) -> Callable[[View], View]:
    """Check path, headers and query before the view runs, and document it; api/access/auth.py
    has checked the token by then.

    Takes the fields of `Contract`. A view whose `query` has fields receives it as keyword `query`; any other parameter
    is a 422.
    """
    whole = Contract(answer, scope, **contract)

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def checked(**path: Any) -> Any:
            check_path(path)
            check_headers()
            parsed = parse_query(whole.query)
            return view(**path) if whole.query is NoQuery else view(**path, query=parsed)

        checked.contract = whole  # type: ignore[attr-defined]
        return needs(scope)(checked)

    return decorate


@functools.cache
def openapi_path(rule: str) -> str:
    """A route of Flask's, `/v1/jobs/<job_id>`, as OpenAPI writes it: `/v1/jobs/{job_id}`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)
