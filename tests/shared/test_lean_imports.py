"""The imports of a process that starts: no collections meanwhile, no rich, and both are back afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import gc, sys
from shared import lean_imports
{before}
lean_imports.begin()
assert not gc.isenabled()
import structlog, structlog.dev
assert (structlog.dev.rich is None) == {hidden}
lean_imports.begin()
lean_imports.end()
assert gc.isenabled() and gc.get_freeze_count() > 10_000
import rich
assert rich is sys.modules["rich"]
lean_imports.end()
assert sys.modules["rich"] is rich
"""


@pytest.mark.parametrize(("before", "hidden"), [("", True), ("import rich", False)])
def test_rich_is_hidden_from_the_imports_of_a_start_unless_it_is_in_use(before: str, hidden: bool) -> None:
    code = CODE.format(before=before, hidden=hidden)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
