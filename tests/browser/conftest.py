"""A real browser and a real service. Every test with a `page` fails on complaints of the browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from support.browser import FLAGS, Complaints, check_accessibility, take_shots
from support.postgres import part_missing
from support.service import Service

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
SECONDS = 30  # for anything to appear; the machine may be busy


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that do not break it. Two slots; real MNIST where the machine has it."""
    data = {"GRADQ_DATA_DIR": os.environ["GRADQ_DATA_DIR"]} if "GRADQ_DATA_DIR" in os.environ else {}
    folder = tmp_path_factory.mktemp("browser")
    service = Service(
        folder, {"GRADQ_SLOTS": "2", **{name: str(Path(p).absolute()) for name, p in data.items()}}
    ).start()
    yield service
    service.close()


@pytest.fixture
def occupy(service: Service) -> Iterator[Callable[..., dict[str, Any]]]:
    """occupy(**spec): a job that runs until the test is over, and is then cancelled, also if the test fails."""
    begun: list[dict[str, Any]] = []

    def submit(**spec: Any) -> dict[str, Any]:
        begun.append(service.submit(**{"epochs": 10_000, "architecture": "linear", **spec}))
        return begun[-1]

    yield submit
    for job in begun:
        if service.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202:  # else it has ended, or is deleted
            service.wait(job["id"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One per module, not per session: while Playwright runs, no other event loop can run in this thread."""
    if (binary := shutil.which("chromium")) is None:
        part_missing("chromium is not on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, service: Service) -> Iterator[BrowserContext]:
    context = browser.new_context(
        base_url=str(service.http.base_url), viewport={"width": 1280, "height": 860}, locale="en-GB", timezone_id="UTC"
    )
    context.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    yield context
    context.close()


@pytest.fixture
def complaints(context: BrowserContext, service: Service) -> Iterator[Complaints]:
    """Complaints of the browser. `complaints.expect("409")` for those that a test provokes."""
    complaints = Complaints(str(service.http.base_url))
    context.on("page", complaints.listen)
    yield complaints
    complaints.check()


@pytest.fixture
def page(context: BrowserContext, complaints: Complaints) -> Page:
    return context.new_page()


@pytest.fixture
def axe() -> Callable[[Page], None]:
    """axe(page): no serious or critical finding of axe-core, in light and in dark."""
    return check_accessibility


@pytest.fixture
def shot() -> Callable[[Page, str], None]:
    """shot(page, name): NAME-light.png, NAME-dark.png and NAME-phone.png in test-artifacts/."""
    return lambda page, name: take_shots(page, ARTIFACTS, name)
