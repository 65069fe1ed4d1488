"""The files that pages load: our own, and plotly's script from its pip package. An address names what lies at it, so a
browser keeps it for good.

Our own files share one version, that of all of them, so that a script finds its neighbours by relative imports.
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
    """A file as it is sent: packed once. The rare client that takes no gzip has it unpacked."""

    version: str
    media_type: str
    packed: bytes


@bp.get("/static/<version>/<path:name>")
@needs("read")
def asset(version: str, name: str) -> Response:
    """A page that was open while the service was upgraded still finds the file, and asks for it each time."""
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
    """Where a file of ours lies; a name that is none is a mistake in a template."""
    return f"/static/{_ours()[name].version}/{name}"


def plotly() -> dict[str, str]:
    """Where its script lies, and the ids of style sheets that it must not add to a page: see js/curve.js."""
    return {"address": f"/static/{_plotly().version}/{PLOTLY}", "without": " ".join(_style_ids())}


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
    """Found without importing it: its Python side is large."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise NotFound("plotly is not installed")
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def _media_type(name: str) -> str:
    if name.endswith(".js"):
        return "text/javascript"  # whatever this machine's registry says
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
