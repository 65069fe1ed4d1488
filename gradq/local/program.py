"""`python -P -m gradq.local.program MODULE …` runs MODULE as `python -m MODULE …` does, from any folder.

gunicorn and Celery insert the current folder at the start of `sys.path`, unless `sys.path` has it. Appended here, it is
searched last, so its modules do not hide installed ones.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    sys.path += {os.getcwd(), os.environ.get("PWD", os.getcwd())}  # the same folder by both of its names
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
