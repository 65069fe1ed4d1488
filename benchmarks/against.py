"""Any benchmark on two checkouts in turn: this one, and a revision of it in a folder that is deleted afterwards.

    python -m benchmarks.against v0.2.0 polling --rounds 3 -- --rounds 2

What follows `--` are the benchmark's own options. Both checkouts use this interpreter with its packages, and this
checkout's benchmarks, so that both are measured alike. The order changes from round to round. Other processes disturb
both sides of a round alike: ratios vary less than figures, and `cpu_…` less than rates and latencies.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.support import Figures, publish, say

CLAIM = "none; each figure of another revision, of this checkout, and the median of the rounds' ratios"
HERE = Path(__file__).resolve().parents[1]
BENCHMARKS = "benchmarks"
SUMMARY = {"median", "p95", "min", "max"}  # as support.summary makes it
UNCOMPARED = {"machine"}


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    options.add_argument("revision", help="a commit, tag or branch of this repository")
    options.add_argument("benchmark", help="the name of a file here, such as polling")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--save", action="store_true", help="also write benchmarks/results/against-<today>.json")
    own, _, given = partition(sys.argv[1:], "--")
    asked = options.parse_args(own)
    with tempfile.TemporaryDirectory(prefix="gradq-bench-") as folder:
        commit = check_out(asked.revision, Path(folder))
        rounds = [one_round(Path(folder), asked.benchmark, given, i % 2 == 1) for i in range(asked.rounds)]
    figures = compared(rounds)
    width = max(map(len, figures), default=0)
    for name, each in figures.items():
        say(f"{name:{width}}  {each['before']:12.4g}  {each['after']:12.4g}  {each['ratio']:.3f}")
    title = {"of": asked.benchmark, "options": given, "revision": commit, "rounds": asked.rounds}
    publish("against", CLAIM, {**title, "figures": figures}, asked.save)


def partition(words: list[str], separator: str) -> tuple[list[str], list[str], list[str]]:
    """As `str.partition`."""
    place = words.index(separator) if separator in words else len(words)
    return words[:place], words[place : place + 1], words[place + 1 :]


def check_out(revision: str, folder: Path) -> str:
    """Write the files of a revision into the folder, with this checkout's benchmarks. Returns the commit's hash."""
    git = ("git", "-C", str(HERE))
    commit = subprocess.run([*git, "rev-parse", "--verify", f"{revision}^{{commit}}"], capture_output=True, text=True)
    if commit.returncode:
        raise SystemExit(f"{revision} is no revision of this repository: {commit.stderr.strip()}")
    archive = subprocess.run([*git, "archive", commit.stdout.strip()], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    shutil.rmtree(folder / BENCHMARKS, ignore_errors=True)
    shutil.copytree(HERE / BENCHMARKS, folder / BENCHMARKS, ignore=shutil.ignore_patterns("results", "__pycache__"))
    return commit.stdout.strip()


def one_round(before: Path, benchmark: str, given: list[str], swapped: bool) -> tuple[Figures, Figures]:
    """The line of JSON of the other revision and that of this checkout, each run once."""
    found = {}
    for checkout in (HERE, before) if swapped else (before, HERE):
        say(f"{benchmark}: {'this checkout' if checkout == HERE else 'the other revision'}")
        run = subprocess.run(
            [sys.executable, "-m", f"{BENCHMARKS}.{benchmark}", *given],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=subprocess.PIPE,
            text=True,
        )
        if run.returncode or not run.stdout.strip():
            raise SystemExit(f"{benchmark} has failed, or was skipped, in {checkout}")
        found[checkout] = json.loads(run.stdout.splitlines()[-1])
    return found[before], found[HERE]


def compared(rounds: list[tuple[Figures, Figures]]) -> Figures:
    """Of each number that both have in all rounds: the medians of both, and the median of the rounds' ratios."""
    pairs = [(dict(numbers(before)), dict(numbers(after))) for before, after in rounds]
    names = [name for name in pairs[0][0] if all(name in side for pair in pairs for side in pair)]
    found: Figures = {}
    for name in names:
        before, after = [pair[0][name] for pair in pairs], [pair[1][name] for pair in pairs]
        ratios = [new / old for old, new in zip(before, after, strict=True) if old]
        if ratios:
            medians = {"before": statistics.median(before), "after": statistics.median(after)}
            found[name] = {**medians, "ratio": round(statistics.median(ratios), 4)}
    return found


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a benchmark's figures by their path, such as `job.per_second`; of a summary its median."""
    if isinstance(value, dict):
        if value.keys() == SUMMARY:
            yield name, float(value["median"])
            return
        for key, part in value.items():
            if key not in UNCOMPARED:
                yield from numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


if __name__ == "__main__":
    main()
