"""What no process of an idle service has imported: it would take memory for as long as the service runs, and time of
its start. The trainer server is in tests/worker/trainer/test_process.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

COMPILER_AND_TRAINING = {"torch", "torchvision", "matplotlib", "sklearn", "scipy", "sympy", "onnx"}
NOT_IN = {
    "supervisor": {
        *("sqlalchemy", "alembic", "psycopg", "celery", "kombu", "redis", "flask", "gunicorn", "structlog", "numpy"),
        *("httpx2", "asyncio", "yaml", "rich"),
    },
    "api": {"alembic", "mako", "psycopg", "rich", "pygments", "httpx2", "s3fs", "joblib", "pynvml"},
    "worker": {
        "alembic",
        "mako",
        "click_repl",
        "prompt_toolkit",
        "psycopg",
        "rich",
        "pygments",
        "httpx2",
        "s3fs",
        "flask",
        "PIL",
    },
    "trainer server": {"alembic", "sqlalchemy", "celery", "kombu", "redis", "rich", "flask", "sklearn", "torchvision"},
}
IMPORTS = {
    "supervisor": """
        import os, signal
        from gradq import own_packages
        from gradq.cli import app
        own_packages.prefer()
        import gradq.commands.up
        from gradq.local.embedded import EmbeddedService
        from gradq.local.public_address import require_a_token
        from shared.config import Settings
        settings = Settings.from_env()
        require_a_token("127.0.0.1", settings)
        said = []

        def say(line):
            said.append(line)
            if line.startswith("ready "):
                os.kill(os.getpid(), signal.SIGTERM)

        assert EmbeddedService(settings, say).run("127.0.0.1", 0) == 0
        assert said[-1] == "stopped", said
    """,
    "api": """
        from gradq.local import program
        program.prepare()
        import gunicorn.app.wsgiapp, gunicorn.arbiter
        from types import SimpleNamespace
        from shared.config import Settings
        from shared.db.database import Database
        import api.server, logging
        made = []
        make = lambda: made.append(__import__("api.app").app.create_app())
        server = SimpleNamespace(log=logging.getLogger(), app=SimpleNamespace(wsgi=make))
        api.server.on_starting(server)
        assert made
    """,
    "worker": """
        import os, signal
        from gradq.local import program
        program.prepare()
        import worker.__main__
        from worker import startup
        ends = iter([lambda: os.kill(os.getpid(), signal.SIGTERM)])
        startup._report = lambda: next(ends, lambda: None)()
        try:
            worker.__main__.main()
        except SystemExit as end:
            assert not end.code
    """,
    "trainer server": "import worker.trainer.preload",
}


PRINT_MODULES = """
import json, sys
found = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
print(json.dumps(sorted(found)), flush=True)
"""


@pytest.mark.parametrize("role", IMPORTS)
def test_an_idle_process_has_not_imported_what_only_others_use(role: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
    env |= {"GRADQ_STATE_DIR": str(tmp_path / "state"), "GRADQ_ALLOW_ANONYMOUS": "true"}
    if role in ("api", "worker"):
        migrate = [sys.executable, "-m", "gradq", "migrate"]
        subprocess.run(migrate, env=env, check=True, capture_output=True, timeout=150)
    script = f"{textwrap.dedent(IMPORTS[role])}\n{PRINT_MODULES}"
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    loaded = set(json.loads(ended.stdout.splitlines()[-1]))
    unwanted = NOT_IN[role] if role == "trainer server" else NOT_IN[role] | COMPILER_AND_TRAINING
    assert loaded & unwanted == set()
