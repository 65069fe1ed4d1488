"""The page that asks for a token. Nothing else answers without one, so it carries all that it needs."""

from __future__ import annotations

import base64
import hashlib

from flask import Response, render_template
from markupsafe import Markup

from api.dashboard import assets
from api.http.errors import BEARER

CSP = (
    "default-src 'none'; style-src 'sha256-{}'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def sign_in_page(next: str, error: str | None = None) -> Response:
    """A 401 with a form that posts `token` and `next` to /session. `next`: where to go from there, a path of ours;
    `error`: what was wrong with the token before."""
    style = Markup(assets.text("gradq.css"))  # a file of ours  # nosec B704
    html = render_template("sign_in.html", style=style, next=path_of_ours(next), error=error)
    response = Response(html, 401, mimetype="text/html")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    response.headers["Content-Security-Policy"] = CSP.format(digest)
    response.headers["WWW-Authenticate"] = BEARER
    return response


def path_of_ours(wanted: str) -> str:
    """Where to go on; never to another site, however it is spelled."""
    ours = wanted.startswith("/") and wanted.isprintable() and not wanted.startswith(("//", "/\\"))
    return wanted if ours else "/"
