"""Tests of the checks that all other browser tests rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page
from support.browser import Complaints

PROVOKED: dict[str, tuple[str, str]] = {
    "an error on the console": ("console.error('so it is')", "so it is"),
    "an uncaught exception": ("setTimeout(() => { throw new Error('oh no') })", "oh no"),
    "a script in the page itself": (
        "const s = document.createElement('script'); s.textContent = '1'; document.head.append(s)",
        "Content Security Policy",
    ),
    "a style sheet in the page itself": (
        "const s = document.createElement('style'); s.textContent = 'p{}'; document.head.append(s)",
        "Content Security Policy",
    ),
    "text that becomes a program": ("window.go = setTimeout('1')", "Content Security Policy"),
    "a picture from elsewhere": ("new Image().src = 'http://127.0.0.1:9/x.png'", "Content Security Policy"),
    "a call that leaves the origin": ("fetch('http://127.0.0.1:9/x').catch(() => {})", "Content Security Policy"),
    "an answer that is an error": ("fetch('/v1/jobs/job_0').catch(() => {})", "404"),
}


@pytest.mark.parametrize("what", PROVOKED)
def test_complaints_are_recorded(page: Page, complaints: Complaints, what: str) -> None:
    script, part = PROVOKED[what]
    page.goto("/system")
    with page.expect_event("console" if what != "an uncaught exception" else "pageerror"):
        page.evaluate(f"() => {{ {script} }}")
    assert any(part in line for line in complaints.found), complaints.found
    complaints.found.clear()


def test_inaccessible_elements_are_found(page: Page, axe: Callable[[Page], None]) -> None:
    page.goto("/system")
    page.evaluate("document.getElementById('main').insertAdjacentHTML('beforeend', '<button></button>')")
    with pytest.raises(AssertionError, match="button-name"):
        axe(page)
