"""`python -P -m gradq.local.program MODULE …` runs MODULE as `python -m MODULE …` does, from any folder.

gunicorn and Celery insert the current folder at the start of `sys.path`, unless `sys.path` has it. Appended here, it is
searched last, so its modules do not hide installed ones.
"""

from __future__ import annotations

import os
import runpy
import sys
from contextlib import suppress

from gradq import own_packages


def prepare() -> None:
    """To be called before the imports of a part of the service. The part calls `lean_imports.end` after them."""
    own_packages.prefer()
    from shared import lean_imports
    from shared.log_stream import hold_streams

    lean_imports.begin()
    hold_streams()  # before the module's own imports, which may keep the streams of now


def run(module: str, *arguments: str) -> None:
    """Runs the module in this process, as its main program."""
    prepare()
    with suppress(FileNotFoundError):  # the current folder may have been deleted
        here = os.getcwd()
        sys.path += {here, os.environ.get("PWD", here)}  # the same folder by both of its names
    sys.argv[:] = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run(*sys.argv[1:])
