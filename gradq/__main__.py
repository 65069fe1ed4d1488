"""`python -m gradq` is the same command as `gradq`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder; the command `gradq` does not search it either
    from gradq.cli import app

    app(prog_name="gradq")
