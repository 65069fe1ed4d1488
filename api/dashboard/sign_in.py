"""The page that asks for a token. No file is served without one, so its style sheet is inline."""

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
    """A 401 with a form that posts `token` and `next` to /session.

    `next`: the path to redirect to after signing in. `error`: why the token that was sent is not accepted.
    """
    style = Markup(assets.text("gradq.css"))  # a constant file of this package  # nosec B704
    html = render_template("sign_in.html", style=style, next=path_of_ours(next), error=error)
    response = Response(html, 401, mimetype="text/html")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    response.headers["Content-Security-Policy"] = CSP.format(digest)
    response.headers["WWW-Authenticate"] = BEARER
    return response


def path_of_ours(wanted: str) -> str:
    """`wanted` if it is a path on this site, otherwise `/`: a redirect must not lead to another site."""
    ours = wanted.startswith("/") and wanted.isprintable() and not wanted.startswith(("//", "/\\"))
    return wanted if ours else "/"
