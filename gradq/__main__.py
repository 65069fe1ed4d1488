"""`python -m gradq` is the same command as `gradq`."""

from gradq.cli import app

if __name__ == "__main__":
    app(prog_name="gradq")
