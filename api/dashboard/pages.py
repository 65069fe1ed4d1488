"""Routes of the pages, and their error pages."""

from __future__ import annotations

import platform

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from api.access.auth import needs
from api.dashboard import draw_page, job_page, jobs_page, submit_page, words
from api.dashboard.frame import asks_for_page, for_every_page, page
from api.dashboard.learn_page import learn_page
from api.dashboard.sign_in import sign_in_page
from api.http import errors
from api.http.requests import check_path
from api.jobs import files
from api.services import services
from shared.errors import TokenMissing

bp = Blueprint("dashboard", __name__, template_folder="templates")


@bp.get("/")
@needs("read")
def index() -> AnyResponse:
    return jobs_page.answer()


@bp.get("/jobs")
@needs("read")
def no_job() -> AnyResponse:
    """The address of a job without its id leads to the list."""
    return redirect("/")


@bp.get("/jobs/<job_id>")
@needs("read")
def job(job_id: str) -> Response:
    check_path({"job_id": job_id})
    files.try_to_draw_pictures(job_id)
    with services().database.read() as session:
        found = job_page.gather(session, job_id)
    return page("job", **found)


@bp.get("/submit")
@needs("read")
def submit() -> Response:
    return submit_page.answer()


@bp.get("/compare")
@needs("read")
def compare() -> Response:
    return page("compare")


@bp.get("/draw")
@needs("read")
def draw() -> Response:
    return draw_page.answer()


@bp.get("/learn")
@needs("read")
def learn() -> Response:
    """`?job=` selects the walk to show; `?from=` a finished job whose weights the form starts from."""
    return page("learn", **learn_page(request.args.get("job"), request.args.get("from")))


@bp.get("/system")
@needs("read")
def system() -> Response:
    return page("system", python=platform.python_version(), upload_limit=services().settings.max_upload_bytes)


bp.app_context_processor(for_every_page)
for word in words.FILTERS:
    bp.add_app_template_filter(word)


@bp.errorhandler(Exception)
def error_page(error: Exception) -> Response:
    """The problem as an HTML page where the request prefers HTML, as JSON otherwise; for 401 the page to sign in."""
    problem = errors.render_error(error)
    if not asks_for_page():
        return problem
    if problem.status_code == 401:
        wrong = None if isinstance(error, TokenMissing) else problem.get_json()["detail"]  # a first visit has no token
        return sign_in_page(request.full_path.rstrip("?"), wrong)
    shown = page("error", problem.status_code, problem=problem.json)
    for name in ("Retry-After", "Allow"):
        if name in problem.headers:
            shown.headers[name] = problem.headers[name]
    return shown


def unrouted(error: Exception) -> Response:
    """The response to an error of the app: at an address without a route a page for browsers, else a problem."""
    return error_page(error) if request.url_rule is None else errors.render_error(error)
