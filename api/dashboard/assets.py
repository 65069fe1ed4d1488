"""The files that pages load: those of `static/`, and plotly's script from its pip package.

An address holds a hash of the content, so browsers cache it for good. All files of `static/` share one version, so that
the relative imports of scripts resolve.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from api.access.auth import needs

bp = Blueprint("assets", __name__)

FOLDER = Path(__file__).parent / "static"
PLOTLY = "plotly.js"
FOR_GOOD = "public, max-age=31536000, immutable"
STYLE_ID = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')


@dataclass(frozen=True)
class Asset:
    """A file as it is sent: compressed once, and decompressed for the rare client that does not accept gzip."""

    version: str
    media_type: str
    packed: bytes


@bp.get("/static/<version>/<path:name>")
@needs("read")
def asset(version: str, name: str) -> Response:
    """The file of this name, in its current version whatever `version` says; only the current version is cacheable.

    A page that was open during an upgrade of the service still finds its files under the old version.
    """
    found = _plotly() if name == PLOTLY else _ours().get(name)
    if found is None:
        raise NotFound
    response = Response(mimetype=found.media_type)
    if "gzip" in request.accept_encodings:
        response.set_data(found.packed)
        response.headers["Content-Encoding"] = "gzip"
    else:
        response.set_data(gzip.decompress(found.packed))
    response.headers["Vary"] = "Accept-Encoding"
    if version == found.version:
        response.headers["Cache-Control"] = FOR_GOOD
    return response


def address(name: str) -> str:
    """The address of a file of `static/`; KeyError for an unknown name, which is a mistake in a template."""
    return f"{request.script_root}/static/{_ours()[name].version}/{name}"


def plotly() -> dict[str, str]:
    """`address` of plotly's script; `without`: ids, separated by spaces, of style sheets it must not add to a page.
    js/curve.js reads both."""
    return {"address": f"{request.script_root}/static/{_plotly().version}/{PLOTLY}", "without": " ".join(_style_ids())}


def text(name: str) -> str:
    return gzip.decompress(_ours()[name].packed).decode()


@functools.cache
def _ours() -> dict[str, Asset]:
    contents = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    whole = hashlib.sha256()
    for name in sorted(contents):
        whole.update(name.encode() + b"\0" + hashlib.sha256(contents[name]).digest())
    version = whole.hexdigest()[:16]
    return {name: Asset(version, _media_type(name), gzip.compress(content)) for name, content in contents.items()}


@functools.cache
def _plotly() -> Asset:
    content = _plotly_file().read_bytes()
    return Asset(hashlib.sha256(content).hexdigest()[:16], _media_type(PLOTLY), gzip.compress(content, 6))


@functools.cache
def _style_ids() -> tuple[str, ...]:
    return tuple(sorted({found.decode() for found in STYLE_ID.findall(_plotly_file().read_bytes())}))


def _plotly_file() -> Path:
    """Found without importing plotly, whose Python part is large. Raises NotFound where plotly is not installed."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise NotFound("plotly is not installed")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def _media_type(name: str) -> str:
    if name.endswith(".js"):
        return "text/javascript"  # mimetypes reads the machine's registry, which may say otherwise
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
