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


def main() -> None:
    own_packages.prefer()
    with suppress(FileNotFoundError):  # the current folder may have been deleted
        here = os.getcwd()
        sys.path += {here, os.environ.get("PWD", here)}  # the same folder by both of its names
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
