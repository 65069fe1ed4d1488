"""A private S3 server for tests: moto's, in a process of its own, with faults on demand.

with S3() as s3:
    service = Service(folder, s3.environment)   # its store is s3.url
    s3.faults(full=True)                        # writes are refused, as by a server whose disk is full
    s3.faults(write_seconds=30)                 # each write takes half a minute
    s3.faults()                                 # none
    s3.cable.cut()                              # no answer; s3.cable.refuse(): no connection
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType

from support.postgres import free_port
from support.proxy import Cable, to_port
from support.waiting import wait_for

BUCKET = "gradq"
START_SECONDS = 60.0
SERVER = Path(__file__).with_name("s3_server.py")


class S3:
    """The server on a loopback port, reached through `cable`; `url` is the store in a bucket of it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="gradq-s3-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.cable = Cable(to_port(self.port), free_port())
        self.url = f"s3://{BUCKET}/store"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the store."""
        return self.environment_through(self.cable.port)

    def environment_through(self, port: int) -> dict[str, str]:
        """The same through another cable, or with `self.port` without one."""
        return {
            "GRADQ_ARTIFACTS_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }

    def __enter__(self) -> S3:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> S3:
        """Start the server and make the bucket. Its content is in memory and ends with the process."""
        self.faults()
        with (self.folder / "s3.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER), str(self.port), str(self.folder / "faults.json")],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._make_bucket, START_SECONDS, "the S3 server")
        return self

    def faults(self, full: bool = False, write_seconds: float = 0.0) -> None:
        """`full`: writes get a 507. `write_seconds`: the time that each write takes at least."""
        path = self.folder / "faults.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"full": full, "write_seconds": write_seconds}))
        new.replace(path)

    def close(self) -> None:
        self.cable.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _make_bucket(self) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
