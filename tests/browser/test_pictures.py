"""The two screenshots of the dashboard in README.md, of a real service with real jobs. Their size is limited, since
every clone of the repository contains them. GRADQ_PICTURES=1 (`make pictures`) writes them to docs/."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support.recording import HOST
from support.service import Service

FOLDER = Path(__file__).parents[2] / ("docs" if os.environ.get("GRADQ_PICTURES") == "1" else "test-artifacts")
MOST_BYTES = 200_000
RENAME_HOST = """([from, to]) => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.nodeValue = texts.currentNode.nodeValue.replaceAll(from, to);
}"""
SIZE = {"width": 1200, "height": 720}
JOBS = (
    {"name": "mlp by autograd", "gradients": "autograd", "epochs": 20},
    {"name": "mlp by hand", "gradients": "manual", "epochs": 20},
    {
        "name": "cnn by hand",
        "gradients": "manual",
        "architecture": "cnn",
        "optimizer": "adam",
        "lr": 0.003,
        "epochs": 3,
    },
    {"name": "wide, cosine", "architecture": {"type": "mlp", "hidden": [128]}, "schedule": "cosine", "epochs": 12},
    {"name": "too bold", "lr": 1e6, "optimizer": "basic", "epochs": 3},
    {"name": "adam", "optimizer": "adam", "lr": 0.003, "epochs": 10},
    {"name": "linear by hand", "architecture": "linear", "gradients": "manual", "lr": 0.5, "epochs": 10},
)


@pytest.fixture(scope="module")
def jobs(service: Service) -> dict[str, dict[str, Any]]:
    """One job of each kind by name, all ended."""
    found = [service.submit(**body, seed=7) for body in JOBS]
    return {job["name"]: service.wait(job["id"], 120) for job in found}


def keep(page: Page, name: str) -> None:
    """Save a screenshot that names no host of its own."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / name
    page.evaluate(RENAME_HOST, [socket.gethostname(), HOST])
    page.screenshot(path=path)
    assert path.stat().st_size < MOST_BYTES


@pytest.fixture
def page(page: Page) -> Page:
    page.set_viewport_size(SIZE)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    return page


def test_the_list_of_jobs(page: Page, jobs, occupy) -> None:
    for i in (1, 2, 3):
        occupy(name=f"long run {i}", epochs=3000, architecture="mlp", seed=i)
    page.goto("/")
    for i in (1, 2):
        running = page.locator("tr").filter(has_text=f"long run {i}")
        expect(running.locator("svg")).to_be_visible()
        expect(running).to_contain_text("left")
    expect(page.locator("tr").filter(has_text="long run 3")).to_contain_text("queued")
    keep(page, "dashboard-jobs.png")


def test_a_job(page: Page, jobs) -> None:
    page.goto(f"/jobs/{jobs['mlp by hand']['id']}")
    for chart in page.locator(".chart").all():
        expect(chart.locator(".scatterlayer .trace").first).to_be_attached()
    keep(page, "dashboard-job.png")
