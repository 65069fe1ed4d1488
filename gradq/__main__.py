"""`python -m gradq` is the same command as `gradq`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder that Python was started in, which `gradq` does not search either
    from gradq.cli import app

    app(prog_name="gradq")
