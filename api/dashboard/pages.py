"""The pages' routes, and what becomes of an error on the way to one."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from api import errors
from api.dashboard import draw_page, jobs_page, submit_page, words
from api.dashboard.frame import for_every_page, page
from api.dashboard.sign_in import sign_in_page
from api.services import services
from shared import jobs

bp = APIBlueprint("dashboard", __name__, enable_openapi=False, template_folder="templates")


@bp.get("/")
def index() -> AnyResponse:
    return jobs_page.answer()


@bp.get("/jobs")
def no_job() -> AnyResponse:
    """What is left of a job's address when its id is cut off."""
    return redirect("/")


@bp.get("/jobs/<job_id>")
def job(job_id: str) -> Response:
    with services().database.read() as session:
        return page("job", job=jobs.get(session, job_id))


@bp.get("/submit")
def submit() -> Response:
    return submit_page.answer()


@bp.get("/compare")
def compare() -> Response:
    return page("compare")


@bp.get("/draw")
def draw() -> Response:
    return draw_page.answer()


@bp.get("/learn")
def learn() -> Response:
    return page("learn")


@bp.get("/system")
def system() -> Response:
    return page("system")


bp.app_context_processor(for_every_page)
for word in words.FILTERS:
    bp.add_app_template_filter(word)


@bp.errorhandler(Exception)
def error_page(error: Exception) -> Response:
    """What a program would be told as a problem, as a page; a stranger is asked to sign in."""
    problem = errors.render_error(error)
    if not _wants_page():
        return problem
    if problem.status_code == 401:
        return sign_in_page(request.full_path.rstrip("?"), _why(problem))
    shown = page("error", problem.status_code, problem=problem.json)
    if "Retry-After" in problem.headers:
        shown.headers["Retry-After"] = problem.headers["Retry-After"]
    return shown


def _wants_page() -> bool:
    return request.accept_mimetypes.accept_html


def _why(problem: Response) -> str | None:
    """What was wrong with the token that was sent; whoever sent none has done nothing wrong yet."""
    sent = "Authorization" in request.headers or "gradq_token" in request.cookies
    return problem.get_json()["detail"] if sent else None
