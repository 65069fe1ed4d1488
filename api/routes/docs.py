"""The OpenAPI document, and the page /docs: Swagger UI from its pip package, which loads nothing from other hosts."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from flask import Blueprint, Response, current_app, jsonify, request, send_from_directory
from werkzeug.exceptions import NotFound

from api.access.auth import needs
from api.openapi import document

bp = Blueprint("docs", __name__)

EXTENSION = "gradq.openapi"
DOCS_CSP = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {"swagger-ui.css": "css", "swagger-ui-bundle.js": "js"}
START = 'SwaggerUIBundle({url: "ROOT/v1/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null})\n'
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>gradq API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="ROOT/docs/swagger-ui.css">
<main id="docs">This page needs JavaScript. Document: <a href="ROOT/v1/openapi.json">/v1/openapi.json</a>.</main>
<script src="ROOT/docs/swagger-ui-bundle.js"></script>
<script src="ROOT/docs/start.js"></script>
</html>
"""


@bp.get("/v1/openapi.json")
@needs("read")
def openapi() -> Response:
    """The OpenAPI document, built at the first request and cached for the life of the process."""
    if EXTENSION not in current_app.extensions:
        current_app.extensions[EXTENSION] = document.build(current_app)
    found = current_app.extensions[EXTENSION]
    servers = [{**server, "url": request.script_root or server["url"]} for server in found["servers"]]
    return jsonify({**found, "servers": servers})


@bp.get("/docs")
@needs("read")
def page() -> Response:
    return _docs(Response(_below_root(PAGE), mimetype="text/html"))


@bp.get("/docs/<name>")
@needs("read")
def asset(name: str) -> Response:
    if name == "start.js":
        return _docs(Response(_below_root(START), mimetype="text/javascript"))
    if name not in FILES:
        raise NotFound
    return _docs(send_from_directory(_swagger_folder() / FILES[name], name, max_age=3600))


def _below_root(text: str) -> str:
    return text.replace("ROOT", request.script_root)


def _docs(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = DOCS_CSP
    return response


@functools.cache
def _swagger_folder() -> Path:
    """Folder of Swagger UI's files in the pip package, found without importing the package."""
    spec = importlib.util.find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise NotFound("Swagger UI is not installed")
    return Path(spec.origin).parent / "templates" / "swagger"
