"""Common to all pages: the frame, keyboard shortcuts, themes, charts, static files, number formats."""

from __future__ import annotations

import gzip

import pytest
from playwright.sync_api import Page, expect
from support.service import Service

from api.dashboard import words

PAGES = {
    "/": "Jobs",
    "/submit": "Submit",
    "/compare": "Compare",
    "/draw": "Draw",
    "/learn": "Learn",
    "/system": "System",
}


@pytest.mark.parametrize("path", PAGES)
def test_each_page_has_its_title_and_its_place_in_the_navigation(page: Page, path: str, axe, shot) -> None:
    page.goto(path)
    expect(page).to_have_title(f"{PAGES[path]} · gradq")
    expect(page.locator("nav [aria-current=page]")).to_have_text(PAGES[path])
    axe(page)


def test_keys_navigate_between_pages_and_a_question_mark_lists_them(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("y")
    expect(page).to_have_url("/system")


@pytest.mark.parametrize("path", ["/system", "/learn"])
def test_on_a_phone_the_navigation_shows_the_current_page(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 320, "height": 600})
    page.goto(path)
    nav, link = (page.locator(selector).bounding_box() for selector in ("nav", "nav [aria-current=page]"))
    assert nav is not None
    assert link is not None
    assert nav["x"] <= link["x"]
    assert link["x"] + link["width"] <= nav["x"] + nav["width"] + 0.5


@pytest.mark.parametrize("path", PAGES)
def test_the_first_stop_of_the_tab_key_skips_the_navigation(page: Page, path: str) -> None:
    page.goto(path)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_chosen_theme_is_kept_on_the_next_page(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Colours").select_option("dark")
    page.goto("/system")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.get_by_label("Colours").select_option("")
    page.goto("/")
    assert page.locator("html").get_attribute("data-theme") is None


class TestCharts:
    def draw(self, page: Page) -> None:
        page.goto("/compare")
        page.evaluate("""async () => {
            const place = document.createElement("div");
            place.className = "chart";
            document.getElementById("main").append(place);
            const source = document.querySelector("script[type=module]").src;
            const { Curve } = await import(source.replace("shell.js", "curve.js"));
            window.curve = new Curve(place, { name: "a test", x: "step", y: "loss", y2: "accuracy" });
            await window.curve.show([
              { name: "loss", x: [1, 2, 3], y: [3, 2, 1] },
              { name: "accuracy", x: [1, 2, 3], y: [0.2, 0.5, 0.9], right: true },
            ]);
        }""")

    def test_plotly_draws_without_violating_the_policy(self, page: Page) -> None:
        self.draw(page)
        expect(page.locator(".scatterlayer .trace")).to_have_count(2)
        page.locator(".nsewdrag").first.hover()
        expect(page.locator(".hoverlayer .legend")).to_contain_text("loss")
        page.evaluate("window.curve.scale({ log: true })")
        page.evaluate("window.curve.show([{ name: 'loss', x: [1, 2, 3], y: [3, 1e-3, 1e-9] }])")  # powers of ten
        expect(page.locator(".ytick tspan").first).to_be_visible()

    def test_pixels_of_a_heat_map_stay_sharp(self, page: Page) -> None:
        """Plotly needs style-src-attr for this: without it its heat maps are blurred."""
        self.draw(page)
        page.evaluate("""async () => {
            window.curve.place.replaceChildren();
            await Plotly.newPlot(window.curve.place, [{ type: "heatmap", z: [[1, 2], [3, 4]] }]);
        }""")
        assert page.locator(".heatmaplayer image").evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"

    def test_a_chart_is_saved_as_png(self, page: Page) -> None:
        self.draw(page)
        with page.expect_download() as download:
            page.evaluate("window.curve.png()")
        assert download.value.suggested_filename == "a-test.png"
        assert download.value.path().read_bytes().startswith(b"\x89PNG")

    def test_a_chart_follows_the_theme(self, page: Page) -> None:
        self.draw(page)
        text = "getComputedStyle(document.querySelector('.xtick text')).fill"
        light = page.evaluate(text)
        page.get_by_label("Colours").select_option("dark")
        page.wait_for_function(f"{text} !== {light!r}")


class TestFiles:
    def test_files_under_the_address_of_their_version_are_immutable(self, page: Page, service: Service) -> None:
        page.goto("/compare")
        for address in page.evaluate("[...document.querySelectorAll('link, script')].map((e) => e.href || e.src)"):
            answer = service.http.get(address)
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert answer.headers["Content-Encoding"] == "gzip"

    def test_a_page_of_an_older_version_still_finds_its_files(self, service: Service) -> None:
        answer = service.http.get("/static/0123456789abcdef/js/shell.js")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-cache"

    def test_a_client_without_gzip_gets_the_same_file(self, service: Service) -> None:
        plain = service.http.get("/static/x/gradq.css", headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert plain.content == service.http.get("/static/x/gradq.css").content
        with service.http.stream("GET", "/static/x/gradq.css") as packed:
            assert gzip.decompress(b"".join(packed.iter_raw())) == plain.content

    @pytest.mark.parametrize("name", ["nothing.js", "../pages.py", "%2e%2e/pages.py", "js"])
    def test_nothing_else_is_served(self, service: Service, name: str) -> None:
        assert service.http.get(f"/static/x/{name}").status_code == 404


def test_not_found_is_a_page_for_browsers_and_a_problem_for_programs(page: Page, complaints, service: Service) -> None:
    complaints.expect("404")
    page.goto("/jobs/job_0")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    expect(page.locator("main")).to_contain_text("job job_0 not found")
    answer = service.http.get("/jobs/job_0", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_scripts_and_templates_format_numbers_in_the_same_way(page: Page) -> None:
    page.goto("/system")
    numbers = [0, 7, 1234567, -1234, 0.5, 0.0123456, 12.3456, 1234.56, 123456.7, 1.5e-7, -0.25, 1e20, None]
    shares = [0, 1, 0.9731, 0.00049, 0.125, None]
    seconds = [0, 0.04231, 0.4, 7.04, 9.99, 10, 59.4, 59.6, 185, 3600, 7325, 10.5, 445_000, 40_000_000, None]
    sizes = [0, 999, 1000, 1500, 99_949, 123_456_789, 5e15, None]
    written = page.evaluate(
        """async ([numbers, shares, seconds, sizes]) => {
            const source = document.querySelector("script[type=module]").src;
            const { number, percent, duration, size } = await import(source.replace("shell.js", "format.js"));
            const [plain, parts] = [numbers.map((n) => number(n)), shares.map((n) => percent(n))];
            return [plain, parts, seconds.map(duration), sizes.map(size)];
        }""",
        [numbers, shares, seconds, sizes],
    )
    assert written == [
        [words.number(n) for n in numbers],
        [words.percent(n) for n in shares],
        [words.duration(s) for s in seconds],
        [words.size(n) for n in sizes],
    ]
