#!/bin/sh
# typer imports pydantic when a command with a plain `str` option is called.
#
# Guess:      typer parses command lines with click alone; a command with one `str` option imports no pydantic.
# Behaviour:  typer 0.29.2 requires pydantic and converts every parameter with it, defaults included. `import typer` and
#             `--help` leave it out; calling the command imports it. That import takes more CPU than typer's own, so a
#             light command line pays twice at each start unless it converts plain strings by itself.
# Versions:   typer 0.29.2, pydantic 2.13.4, Python 3.11.
# Date:       2026-11-29
# Output:     after import typer: pydantic is not imported
#             in the command: pydantic is imported
#
# Exits with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check typer==0.29.2 pydantic==2.13.4
cat > "$folder/app.py" <<'PYTHON'
import sys

import typer

app = typer.Typer(add_completion=False)


def report(moment: str) -> None:
    print(f"{moment}: pydantic {'is' if 'pydantic' in sys.modules else 'is not'} imported")


@app.command()
def main(name: str = "x") -> None:
    report("in the command")


report("after import typer")
app()
PYTHON
"$folder/venv/bin/python" "$folder/app.py" | tee "$folder/output"
printf 'after import typer: pydantic is not imported\nin the command: pydantic is imported\n' | cmp - "$folder/output"
