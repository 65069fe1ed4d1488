"""Checks of every page in browser tests: no console errors, no request to another host, accessibility, screenshots."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, Request
from support.waiting import wait_for

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
CHARTS_FIT = "[...document.querySelectorAll('.chart')].every((chart) => chart.scrollWidth <= chart.clientWidth)"
GRAVE = ("serious", "critical")


class Complaints:
    """Console errors and warnings (including violations of the content security policy), uncaught exceptions, failed
    requests, and requests to another origin."""

    def __init__(self, origin: str) -> None:
        self.origin = urlsplit(origin).netloc
        self.found: list[str] = []
        self.expected: list[str] = []

    def expect(self, part: str) -> None:
        """Ignore complaints that contain this text: the test provokes them."""
        self.expected.append(part)

    def listen(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.found.append(f"uncaught: {error}"))
        page.on("request", self._request)
        page.on("requestfailed", self._failed)

    def check(self) -> None:
        found = [line for line in self.found if not any(part in line for part in self.expected)]
        assert not found, "\n".join(found)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self.origin:
            self.found.append(f"asked another host: {request.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # a stream or a check that the page itself aborted
            self.found.append(f"failed: {request.method} {request.url}: {request.failure}")


def check_accessibility(page: Page) -> None:
    """AssertionError for serious or critical findings of axe-core, in light and dark."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        results = Axe().run(page)  # injected by the debugger, to which the page's policy does not apply
        grave = [found for found in results.response["violations"] if found["impact"] in GRAVE]
        lines = [
            f"{scheme}: {found['id']} ({found['impact']}): {found['help']}\n    "
            + "\n    ".join(
                f"{node['html'][:200]} {node.get('failureSummary', '')[:300]}" for node in found["nodes"][:5]
            )
            for found in grave
        ]
        assert not grave, "\n".join(lines)
    page.emulate_media(color_scheme="light")


def take_shots(page: Page, folder: Path, name: str) -> None:
    """Screenshots of the whole page: light and dark at desktop width, light at phone width. AssertionError if the page
    scrolls sideways at any of them."""
    folder.mkdir(exist_ok=True)
    before = page.viewport_size
    for look, scheme, size in (("light", "light", WIDE), ("dark", "dark", WIDE), ("phone", "light", PHONE)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size(size)
        wait_for(lambda: page.evaluate(CHARTS_FIT), 30, "charts as wide as their containers")
        page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
        too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert too_wide <= 0, f"{name} scrolls sideways by {too_wide} px at {size['width']} px ({look})"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(before or WIDE)
