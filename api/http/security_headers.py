"""What every answer tells a browser: that it is data, belongs to nobody's page, and runs nothing.

A page of our own says its own policy before; `setdefault` leaves it. Whatever else is opened as a document, an SVG or
the file of a job, gets the policy here: `sandbox` gives it an origin of its own, so that a script in it, which may not
run anyway, would find neither cookies nor this API.
"""

from __future__ import annotations

from werkzeug.datastructures import Headers

DATA_CSP = "; ".join(
    [
        "default-src 'none'",
        "style-src 'unsafe-inline'",  # of the pictures that matplotlib draws as SVG
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
    "Cache-Control": "no-cache",  # kept, but asked about: that is what the ETags are for
}


def add_to(headers: Headers) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
