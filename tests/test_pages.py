"""Claims of the documents: named tests exist, links lead somewhere, alarms are explained, hooks match `make lint`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from api import server
from api.connections import client_socket, incoming, turns, worker
from api.waiting import long_polling, transfers
from shared import artifacts
from shared.config import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md"))]


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of the page's headings."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_each_promise_of_the_security_page_names_existing_tests() -> None:
    page = (DOCS / "security.md").read_text()
    promised = page.partition("## What is promised")[2].partition("## What is not")[0]
    heads = ("| promise ", "| resource ")
    rows = [line for line in promised.splitlines() if line.startswith("| ") and not line.startswith(heads)]
    named = set(re.findall(r"`(tests/[\w/.]+)`", promised))
    assert len(rows) > 15
    assert all(re.search(r"`(tests/|make )", row.rpartition(" | ")[2]) for row in rows)
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("resource", "numbers"),
    [
        ("threads that wait for slow clients", f"{Settings.model_fields['transfers'].default} per API process"),
        ("held requests", f"{Settings.model_fields['held_requests'].default} per API process"),
        ("rate of a client", f"{client_socket.MIN_BYTES >> 10} KiB in each {client_socket.PATIENCE_SECONDS:.0f} s"),
        ("incomplete requests", f"up to {incoming.MAX_BODY_BYTES >> 10} KiB"),
        ("incomplete requests", f"{worker.REQUEST_SECONDS:.0f} s each, {worker.MAX_INCOMING} per API process"),
        (
            "head of a request",
            f"{incoming.MAX_HEAD_BYTES >> 10} KiB, its lines {(server.limit_request_line + 2) >> 10} KiB",
        ),
        (
            "requests that are served at once",
            f"{turns.AT_ONCE} per API process, {turns.AT_ONCE * turns.SHARE:.0f} of one client",
        ),
        ("requests that are served at once", f"longer than {turns.LONGEST_SECONDS:g} s"),
        ("threads for `/healthz`", f"{worker.HEALTH_THREADS} per API process"),
        ("what is read ahead", f"{(artifacts.READ_AHEAD + artifacts.CHUNK) >> 20} MiB"),
        (
            "unsent bytes",
            f"{client_socket.UNSENT_BYTES >> 10} KiB, for at most {client_socket.UNACKNOWLEDGED_MS // 1000} s",
        ),
    ],
)
def test_limits_of_the_security_page_are_those_of_the_code(resource: str, numbers: str) -> None:
    """Their tests set lower ones."""
    assert (long_polling.SHARE, transfers.SHARE, transfers.STRANGERS_SHARE) == (0.75, 0.5, 0.25), "in words there"
    [row] = [line for line in (DOCS / "security.md").read_text().splitlines() if line.startswith(f"| {resource}")]
    assert numbers in row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_pages_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in headings(linked), target


def test_every_alarm_has_a_row_and_every_row_an_alarm() -> None:
    rules = yaml.safe_load((DOCS / "prometheus-alerts.yml").read_text())["groups"][0]["rules"]
    page = (DOCS / "operations.md").read_text().partition("## What each alarm means")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(Gradq\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(rule["alert"] for rule in rules)


def test_settings_that_the_security_page_names_are_settings() -> None:
    named = set(re.findall(r"`(GRADQ_[A-Z_]+)", (DOCS / "security.md").read_text()))
    known = {f"GRADQ_{name.upper()}" for name in Settings.model_fields} | {"GRADQ_TOKEN"}
    assert {name.removesuffix("_FILE") for name in named} <= known


def test_pre_commit_runs_commands_of_make_lint_without_a_network() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    commands = recipe.replace("$(PY)", ".venv/bin/python").replace("$(VENV)", ".venv").split("\n\t")
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    for hook in (hook for repository in config["repos"] for hook in repository["hooks"]):
        assert hook["language"] == "system"
        assert hook["entry"] in ("make lint", *commands), hook["id"]
