"""The pages' routes, what every page is given, and what becomes of an error on the way to one."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from api import errors
from api.dashboard import assets, words
from api.dashboard.learn_page import learn_page
from api.dashboard.sign_in import sign_in_page
from api.services import services
from shared import jobs
from shared.version import VERSION

bp = APIBlueprint("dashboard", __name__, enable_openapi=False, template_folder="templates")

NAV = (  # name of the page, address, title, the key after `g` that leads there
    ("jobs", "/", "Jobs", "j"),
    ("submit", "/submit", "Submit", "s"),
    ("compare", "/compare", "Compare", "c"),
    ("draw", "/draw", "Draw", "d"),
    ("learn", "/learn", "Learn", "l"),
    ("system", "/system", "System", "y"),
)
THEMES = ("light", "dark")  # what the cookie may say; without it the browser's wish counts
THEME_COOKIE = "gradq_theme"

# Scripts, pictures, fonts and answers come from here alone, and nothing runs that stands in a page itself. Plotly needs
# two exceptions, neither of which lets a script in. It makes an empty <style> and fills it by insertRule, which no
# policy hinders: the hash is that of nothing. And it writes style="…" on the SVG of raised digits and of heat maps.
EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src-elem 'self' {EMPTY_STYLE}",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",  # a chart becomes a PNG by way of a blob
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


@bp.get("/")
def index() -> Response:
    return page("jobs")


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
    return page("submit")


@bp.get("/compare")
def compare() -> Response:
    return page("compare")


@bp.get("/draw")
def draw() -> Response:
    return page("draw")


@bp.get("/learn")
def learn() -> Response:
    """A walk where `job` names one; `from` names a finished job whose weights the form begins with."""
    return page("learn", **learn_page(request.args.get("job"), request.args.get("from")))


@bp.get("/system")
def system() -> Response:
    return page("system")


def page(name: str, status: int = 200, **data: Any) -> Response:
    """`templates/NAME.html` with `data`, under the policy that all pages share."""
    response = Response(render_template(f"{name}.html", page=name, **data), status, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CSP
    return response


@bp.app_context_processor
def _for_every_page() -> dict[str, Any]:
    theme = request.cookies.get(THEME_COOKIE)
    return {
        "nav": NAV,
        "asset": assets.address,
        "plotly": assets.plotly,
        "theme": theme if theme in THEMES else None,
        "version": VERSION,
    }


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
