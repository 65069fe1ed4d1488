"""The list of jobs at /: as a page, and as the stream that keeps the page up to date.

The query string is that of GET /v1/jobs. A request of the search form (`q`, empty values) is redirected to that form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlencode

from flask import redirect, request
from pydantic import Field
from werkzeug.wrappers import Response

from api.access.auth import owner_filter
from api.dashboard import jobs_stream
from api.dashboard.frame import page
from api.dashboard.job_rows import counts, rows_of
from api.http.requests import LABELS, parse_query
from api.jobs import job_list
from api.jobs.job_filter import ListQuery
from api.services import services
from api.waiting import streams
from shared.errors import InvalidQuery

SHOWN = 50
GROUPS: dict[str, tuple[str, ...]] = {  # buttons of the status filter: the statuses that each selects
    "queued": ("queued",),
    "running": ("running", "cancelling", "pausing"),
    "paused": ("paused",),
    "succeeded": ("succeeded",),
    "failed": ("failed",),
    "cancelled": ("cancelled",),
}


class View(ListQuery):
    limit: Annotated[int, Field(ge=1, le=100)] = SHOWN


def answer() -> Response:
    if "q" in request.args or not all(request.args.values()):
        return redirect(_address(_canonical(request.args.to_dict())))
    if request.accept_mimetypes.best_match(["text/html", streams.MEDIA_TYPE]) == streams.MEDIA_TYPE:
        view = parse_query(View)
        owner = owner_filter()
        return jobs_stream.answer(
            lambda session: job_list.newest(session, view, owner, view.limit),
            lambda session: counts(session, all_counted(view), owner),
        )
    try:
        response = _page(parse_query(View), [])
    except InvalidQuery as error:
        response = _page(None, [field.to_json() for field in error.errors])
    response.headers["Vary"] = "Accept, Cookie"
    return response


def all_counted(view: View) -> View:
    """What the numbers of the status filter count: the jobs of all statuses and on all pages of the view."""
    return view.model_copy(update={"status": (), "after": None})


def _page(view: View | None, wrong: list[dict[str, str]]) -> Response:
    """`view`: None where the query is not valid; `wrong` then holds the errors, and the status is 422."""
    with services().database.read() as session:
        found = job_list.newest(session, view, owner_filter(), view.limit + 1) if view else []
        shown = job_list.jobs_of(session, found[: view.limit]) if view else []
        numbers = counts(session, all_counted(view or View()), owner_filter())
        data: dict[str, Any] = {"rows": rows_of(session, shown), "counts": numbers}
    given = request.args.to_dict()
    older = _address({**given, "after": shown[-1].id}) if view and len(found) > view.limit else None
    newest = _address({k: v for k, v in given.items() if k != "after"}) if "after" in given else None
    return page(
        "jobs",
        422 if wrong else 200,
        **data,
        given=given,
        wrong=wrong,
        groups=[(name, _toggled(given, name), name in _pressed(given)) for name in GROUPS],
        everything=_address({k: v for k, v in given.items() if k not in ("status", "after")}),
        narrowed=list(_narrowed(given)),
        filtered=bool(set(given) - {"limit", "after"}),
        older=older,
        newest=newest,
    )


def _canonical(given: dict[str, str]) -> dict[str, str]:
    """The query with `q`, the text of the search field, split up: `KEY=VALUE` is a label, the rest part of the name."""
    kept = {name: value for name, value in given.items() if value and name not in ("q", "after")}
    words = []
    for word in given.get("q", "").split():
        key, is_label, value = word.partition("=")
        if is_label and key and value:
            kept[LABELS + key] = value
        else:
            words.append(word)
    if words:
        name = " ".join(words)
        kept["name"] = name if "*" in name else f"*{name}*"
    return kept


def _pressed(given: dict[str, str]) -> set[str]:
    statuses = set(given.get("status", "").split(","))
    return {name for name, members in GROUPS.items() if statuses & set(members)}


def _toggled(given: dict[str, str], group: str) -> str:
    """Address of the same view with one button of the status filter toggled."""
    pressed = _pressed(given) ^ {group}
    wanted = ",".join(status for name, members in GROUPS.items() if name in pressed for status in members)
    rest = {name: value for name, value in given.items() if name not in ("status", "after")}
    return _address({**rest, **({"status": wanted} if wanted else {})})


def _narrowed(given: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(kind, value, address without it) of the filters that have no input: labels and the owner."""
    for name, value in given.items():
        if name.startswith(LABELS):
            yield "label", f"{name.removeprefix(LABELS)}={value}", _without(given, name)
        elif name == "owner":
            yield "owner", value, _without(given, name)


def _without(given: dict[str, str], *names: str) -> str:
    return _address({name: value for name, value in given.items() if name not in (*names, "after")})


def _address(query: dict[str, str]) -> str:
    return f"/?{urlencode(query, safe=',*:')}" if query else "/"
