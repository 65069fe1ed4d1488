"""Security headers of every response: no sniffing, no embedding, no scripts.

The dashboard's pages and /docs set a Content-Security-Policy of their own, which `setdefault` keeps. Any other response
that a browser opens as a document, an SVG or the file of a job, gets the policy here. Its `sandbox` gives the document
an opaque origin: even a script that ran in it would have neither the cookies nor access to this API.
"""

from __future__ import annotations

from werkzeug.datastructures import Headers

DATA_CSP = "; ".join(
    [
        "default-src 'none'",
        "style-src 'unsafe-inline'",  # in the SVGs that matplotlib draws
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "sandbox",
    ]
)
NO_DEVICES = ", ".join(f"{name}=()" for name in ("camera", "microphone", "geolocation", "payment", "usb", "serial"))
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": DATA_CSP,
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": NO_DEVICES,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # may be cached, but is revalidated by its ETag
}


def add_to(headers: Headers) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
