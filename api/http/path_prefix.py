"""The path below which a proxy serves the API and the pages: https://host/gradq/, say.

Inside the service no address has the prefix: routes, stored responses, and `links` in bodies. It is added where an
address leaves for a browser or a client: by templates (`{{ root }}`), scripts (js/root.js), cookies, and to the headers
Location and Link here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, request
from werkzeug.datastructures import Headers

from shared.config import as_path_prefix
from shared.errors import ConfigurationError
from shared.loopback import is_loopback_address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HEADER = "HTTP_X_FORWARDED_PREFIX"
LINK = re.compile(r"<(?=/(?!/))")  # the start of each target of a Link header that is a path


class PathPrefix:
    """WSGI middleware: sets SCRIPT_NAME to the prefix of the request.

    `setting` applies to every request, whether the proxy strips the prefix or not. Without a setting it is the header
    X-Forwarded-Prefix, from a proxy that strips the prefix and is on this machine. That of other clients is ignored,
    and so is a text that is not a path.
    """

    def __init__(self, app: WSGIApplication, setting: str) -> None:
        self.app, self.setting = app, setting

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.setting:
            environ["SCRIPT_NAME"] = self.setting
            path = environ.get("PATH_INFO", "")
            if path == self.setting or path.startswith(f"{self.setting}/"):
                environ["PATH_INFO"] = path.removeprefix(self.setting) or "/"
        elif prefix := _forwarded(environ):
            environ["SCRIPT_NAME"] = prefix
        return self.app(environ, start_response)


def register(app: Flask, setting: str) -> None:
    """Raises ConfigurationError if the setting begins like a path of the service: then `/v1/jobs` could mean either."""
    ours = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()}
    if setting and setting.split("/")[1] in ours:
        raise ConfigurationError(f"GRADQ_PATH_PREFIX: {setting} begins like an address of the service; choose another")
    app.wsgi_app = PathPrefix(app.wsgi_app, setting)  # type: ignore[method-assign]


def add_to(headers: Headers) -> None:
    """Add the prefix of this request to the headers that hold a path of the service."""
    root = request.script_root
    location, link = headers.get("Location", ""), headers.get("Link")
    if root and location.startswith("/") and not location.startswith("//"):
        headers["Location"] = root + location
    if root and link is not None:
        headers["Link"] = LINK.sub(f"<{root}", link)


def _forwarded(environ: WSGIEnvironment) -> str:
    """The prefix that a proxy on this machine names; several proxies each add theirs, the outermost first."""
    given, client = environ.get(HEADER, ""), environ.get("REMOTE_ADDR", "")
    if not given or not (client == "" or is_loopback_address(client)):  # empty: by a socket file
        return ""
    try:
        return "".join(as_path_prefix(part.strip()) for part in given.split(","))
    except ValueError:
        return ""
