"""No control of any page leaves the service: every button, choice and folded part of each page is used, those of the
charts and of the dialogs that open too, and no request goes to another origin and no window opens. The service is
served below a path of a proxy: so no request and no link leaves that path either."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Error, Page, expect
from support.browser import Complaints
from support.prefix_proxy import PrefixProxy
from support.service import Service

MOST = 300  # uses of controls on one page: more would be a page that makes new ones without end
OFTEN = 4  # uses of a control that opens others: one for each of the answers that it offers
CONTROLS = "button, summary, select, [role=button], .modebar-btn, input:not([type=file], [type=hidden])"
# A control is known by what it is called, so that one that is rendered again is not used again.
HERE = """(controls) => {
    const names = (e) => [e.dataset.title, e.tagName, e.id, e.name, e.ariaLabel, e.title, e.textContent]
        .map((part) => String(part ?? "").trim().slice(0, 60)).join("|");
    const open = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document;
    const found = [...open.querySelectorAll(controls)].filter((e) =>
        e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.id !== "sign-out");
    const last = (e) => e.matches(".danger, [data-action]"); // what ends or removes the shown job, after all others
    window.controls = new Map([...found.filter((e) => !last(e)), ...found.filter(last)].map((e) => [names(e), e]));
    const links = [...document.querySelectorAll("a[href], form[action]")].map((e) => e.href || e.action);
    return [[...window.controls.keys()], links];
}"""
USE = """(name) => {
    const control = window.controls?.get(name); // undefined if another page has been loaded meanwhile
    if (!control?.matches("select")) return control?.click();
    for (const option of [...control.options]) {
        control.value = option.value;
        control.dispatchEvent(new Event("change", { bubbles: true }));
    }
}"""


@pytest.fixture(scope="module")
def jobs(service: Service) -> dict[str, str]:
    """Finished trainings, one of which the list of jobs shows alone, and a walk. The pages of `own` and of the list
    delete their jobs."""
    names = ("one", "other", "own", "listed")
    ids = {name: service.submit(name=name, epochs=2, labels={"used": name})["id"] for name in names}
    ids["walk"] = service.http.post("/v1/walks", json={"dataset": "digits"}).json()["id"]
    for job in ids.values():
        assert service.wait(job)["status"] == "succeeded"
    return ids


@pytest.fixture(scope="module")
def root(service: Service) -> Iterator[str]:
    """The address of the service behind a proxy: `http://127.0.0.1:PORT/gradq`."""
    proxy = PrefixProxy(urlsplit(str(service.http.base_url)).netloc)
    yield proxy.address
    proxy.close()


@pytest.fixture
def complaints(context: BrowserContext, root: str) -> Iterator[Complaints]:
    complaints = Complaints(root)
    context.on("page", complaints.listen)
    yield complaints
    complaints.check()


@pytest.fixture
def opened(context: BrowserContext) -> list[str]:
    """Addresses of the windows that were opened, and of calls of window.open."""
    found: list[str] = []
    context.expose_function("noteOpened", lambda address: found.append(address))
    context.add_init_script("window.open = (address) => { window.noteOpened(String(address)); return null; };")
    context.on("page", lambda page: found.append(page.url))
    return found


class Hands:
    """Uses every control of a page, and of what opens on it."""

    def __init__(self, page: Page, ready: str) -> None:
        self.page, self.ready = page, ready
        self.times: dict[str, int] = {}  # name of a control -> how often it was used
        self.opener: dict[str, str | None] = {}  # the control whose use made this one appear
        self.links: set[str] = set()
        self.gone = False  # whether the page no longer exists: its job has been deleted by its own button

    def use_all(self, address: str) -> None:
        self.page.goto(address)
        expect(self.page.locator(self.ready).first).to_be_visible()
        home, used = self.page.url, None
        while not self.gone:
            try:
                here, links = self.page.evaluate(HERE, CONTROLS)
                for name in here:
                    self.opener.setdefault(name, used)
                self.links.update(links)
                if (used := self._next(here)) is None:
                    return
                self.times[used] = self.times.get(used, 0) + 1
                assert sum(self.times.values()) < MOST, self.times
                self.page.evaluate(USE, used)
            except Error as error:
                if "context was destroyed" not in error.message:
                    raise
            self._return_to(home)

    def _next(self, here: list[str]) -> str | None:
        """A control that has not been used, or the one that opens such a one."""
        unused = [name for name in self.opener if name not in self.times]
        fresh = [name for name in here if name in unused]
        again = [self.opener[name] for name in unused if self.opener[name] in here]
        return next((name for name in [*fresh, *again] if name and self.times.get(name, 0) < OFTEN), None)

    def _return_to(self, home: str) -> None:
        self.page.wait_for_load_state()
        if urlsplit(self.page.url).path != urlsplit(home).path:
            answer = self.page.goto(home)
            self.gone = answer is not None and answer.status == 404
            if not self.gone:
                expect(self.page.locator(self.ready).first).to_be_visible()


PLACES = {  # page: address, and what is there once its scripts have run
    "job": ("/jobs/{own}", "#right-chart .modebar-btn"),
    "compare": ("/compare?job={one}&job={other}", "#chart .modebar-btn"),
    "list": ("/?label.used=listed", "#rows tr"),
    "submit": ("/submit", "#verdict.good"),
    "draw": ("/draw?job={other}", "#bars tr"),
    "learn": ("/learn?job={walk}", ".stage"),
    "system": ("/system", "#datasets tbody tr"),
}
VIEW_ALONE = {"Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes"}  # all buttons of a chart: none sends it
LONG = ("list", "submit", "draw", "learn", "system")  # pages without charts


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in PLACES])
def test_no_control_leaves_the_service_or_opens_a_window(
    page: Page, name: str, jobs: dict[str, str], root: str, opened: list[str], complaints: Complaints
) -> None:
    address, ready = PLACES[name]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: dialog.accept())
    complaints.expect("404")  # of the job that its own page has deleted
    complaints.expect("422")  # of a form that is sent as it is, and of a seed that is not a number
    hands = Hands(page, ready)
    hands.use_all(root + address.format(**jobs))
    foreign = [url for url in asked if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(f"{root}/")]
    assert len(hands.times) > 3, "no control was found"
    assert foreign == [], hands.times
    assert opened == [], hands.times
    assert [url for url in hands.links if not url.startswith((f"{root}/", "blob:"))] == []
    buttons = {title for control in hands.times if (title := control.partition("|")[0])}
    assert buttons == (VIEW_ALONE if name in ("job", "compare") else set())
