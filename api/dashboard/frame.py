"""The common frame of all pages: rendering, navigation, theme, and the content security policy."""

from __future__ import annotations

from typing import Any

from flask import Response, g, render_template, request

from api.access.auth import COOKIE, UNIDENTIFIED
from api.dashboard import assets
from shared.version import VERSION

NAV = (  # name of the page, address, title, the key to press after `g`
    ("jobs", "/", "Jobs", "j"),
    ("submit", "/submit", "Submit", "s"),
    ("compare", "/compare", "Compare", "c"),
    ("draw", "/draw", "Draw", "d"),
    ("learn", "/learn", "Learn", "l"),
    ("system", "/system", "System", "y"),
)
THEMES = ("light", "dark")  # values of the cookie; without it the browser's preference applies
THEME_COOKIE = "gradq_theme"

# Scripts, images, fonts and API calls are limited to this origin, and inline scripts do not run. Plotly needs two
# exceptions, neither of which allows a script. It adds an empty <style> and fills it with insertRule, which no policy
# restricts: the hash is that of the empty string. And it sets style="…" on the SVG of superscripts and of heat maps.
EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src-elem 'self' {EMPTY_STYLE}",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",  # a chart is exported to PNG through a blob
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def page(name: str, status: int = 200, **data: Any) -> Response:
    """`templates/NAME.html` rendered with `data`, with the Content-Security-Policy that all pages share."""
    # JSON can hold half of a surrogate pair, which UTF-8 cannot encode
    html = render_template(f"{name}.html", page=name, **data).encode(errors="replace")
    response = Response(html, status, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CSP
    return response


def for_every_page() -> dict[str, Any]:
    """Variables that every template may use. `root`: what each address of the service begins with, see
    api/http/path_prefix.py; `may_change`: whether the caller may submit, change and delete."""
    theme, may_change = request.cookies.get(THEME_COOKIE), g.get("principal", UNIDENTIFIED).may("submit")
    return {
        "may_change": may_change,
        "nav": [entry for entry in NAV if may_change or entry[0] != "submit"],
        "asset": assets.address,
        "plotly": assets.plotly,
        "root": request.script_root,
        "signed_in": COOKIE in request.cookies,
        "theme": theme if theme in THEMES else None,
        "version": VERSION,
    }


def asks_for_page() -> bool:
    """Whether the request prefers HTML: true for a browser that loads a page, false for a page's scripts and for
    programs that accept anything."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
