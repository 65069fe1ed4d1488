"""What every page is made of: its template, the frame around it, and the policy that it is shown under."""

from __future__ import annotations

from typing import Any

from flask import Response, render_template, request

from api.access.auth import COOKIE
from api.dashboard import assets
from shared.version import VERSION

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


def page(name: str, status: int = 200, **data: Any) -> Response:
    """`templates/NAME.html` with `data`, under the policy that all pages share."""
    html = render_template(f"{name}.html", page=name, **data).encode(errors="replace")  # JSON can say half a character
    response = Response(html, status, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CSP
    return response


def for_every_page() -> dict[str, Any]:
    theme = request.cookies.get(THEME_COOKIE)
    return {
        "nav": NAV,
        "asset": assets.address,
        "plotly": assets.plotly,
        "signed_in": COOKIE in request.cookies,
        "theme": theme if theme in THEMES else None,
        "version": VERSION,
    }


def asks_for_page() -> bool:
    """A browser on its way to a page says so; scripts of a page, and programs that take anything, do not."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
