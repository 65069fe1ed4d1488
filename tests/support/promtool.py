"""Prometheus' own checker, and its text format as a dict."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from support.postgres import part_missing

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def check(*what: str, text: str | None = None) -> None:
    """Run `promtool check …`, which must accept the text without a warning."""
    tool = shutil.which("promtool")
    if tool is None:
        part_missing("promtool is not installed (Debian: apt install prometheus)")
    done = subprocess.run([tool, "check", *what], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr


def samples(text: str, kinds: tuple[str, ...] = ("counter", "histogram", "gauge", "info")) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        if family.type in kinds:
            for sample in family.samples:
                found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, tuple(sorted(labels.items()))]


ROOT = Path(__file__).parents[2]
