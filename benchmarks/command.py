"""The start-up time of the client: `import gradq`, `gradq --help` and, with a running service, `gradq ps`.

    python -m benchmarks.command [--against FOLDER]

Each command runs in a new process, all in turns, `--rounds` times; CPU time (user and system) and wall time are
measured. For comparison: Python alone. `--against` names another checkout of gradq that is measured in the same turns;
the ratios are then ours / theirs.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.support import SMALL_JOB, parser, publish, service, summary, until_succeeded

CLAIM = "import gradq, gradq --help and gradq ps start in at most half of the CPU time of the checkout that is named"
COMMANDS = {
    "import gradq": ("-c", "import gradq"),
    "from gradq import Client": ("-c", "from gradq import Client"),
    "gradq --help": ("-m", "gradq", "--help"),
    "gradq ps": ("-m", "gradq", "ps"),
}
CLAIMED = ("import gradq", "gradq --help", "gradq ps")


def timed(arguments: tuple[str, ...], root: Path, url: str, folder: str) -> tuple[float, float]:
    """CPU and wall seconds of one run in an empty folder."""
    env = {**os.environ, "PYTHONPATH": str(root), "GRADQ_URL": url}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)
    took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def measured(roots: dict[str, Path], url: str, rounds: int) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Checkout -> command -> (CPU, wall) of each round; a first round, which fills caches, is left out."""
    commands = {"python": ("-c", "pass"), **COMMANDS}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {c: [] for c in commands} for name in roots}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(rounds + 1):
            for command, arguments in commands.items():
                for name, root in roots.items():
                    seconds = timed(arguments, root, url, folder)
                    if round_:
                        found[name][command].append(seconds)
    return found


def main() -> None:
    options = parser(__doc__, "command")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, measured in the same turns")
    asked = options.parse_args()
    roots = {"ours": Path(__file__).parents[1]} | ({"theirs": asked.against.absolute()} if asked.against else {})
    with service() as client:
        until_succeeded(client, [client.submit(SMALL_JOB)["id"]])
        found = measured(roots, client.url, asked.rounds)
    figures: dict[str, Any] = {"rounds": asked.rounds}
    for name, commands in found.items():
        figures[name] = {
            command: {
                "cpu_seconds": summary([cpu for cpu, _ in seconds], digits=3),
                "wall_seconds": summary([wall for _, wall in seconds], digits=3),
            }
            for command, seconds in commands.items()
        }
    if asked.against:
        ratios = {
            command: figures["ours"][command]["cpu_seconds"]["median"]
            / figures["theirs"][command]["cpu_seconds"]["median"]
            for command in COMMANDS
        }
        figures |= {
            "cpu_ours_by_theirs": {command: round(ratio, 2) for command, ratio in ratios.items()},
            "claim_holds": all(ratios[command] <= 0.5 for command in CLAIMED),
        }
    publish("command", CLAIM, figures, asked.save)


if __name__ == "__main__":
    main()
