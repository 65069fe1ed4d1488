"""`python s3_server.py PORT FILE`: moto's S3 server with faults; FILE has them as JSON, and is read for each write."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

WRITES = ("PUT", "POST")
FULL = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>XMinioStorageFull</Code>'
    b"<Message>Storage backend has reached its minimum free drive threshold.</Message></Error>"
)


def main(port: str, faults: str) -> None:
    inner = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in WRITES and environ["PATH_INFO"].count("/") > 1:  # a key, not the bucket
            wanted = json.loads(Path(faults).read_text())
            time.sleep(wanted["write_seconds"])  # the fault itself: a slow disk
            if wanted["full"]:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start("507 Insufficient Storage", [("Content-Type", "application/xml")])
                return [FULL]
        answer: Iterable[bytes] = inner(environ, start)
        return answer

    run_simple("127.0.0.1", int(port), app, threaded=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
