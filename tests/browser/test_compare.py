"""The Compare page: jobs from the address or the search box, live updates, the difference of manual and autograd."""

from __future__ import annotations

import csv
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from support.service import Service
from support.waiting import wait_for

SHORT = {"epochs": 2, "architecture": "linear"}
MARKUP = '<a href="https://a.invalid/">win</a> <b>b</b><br> &lt;i&gt; $x$ %{y}'
Job = dict[str, Any]


@pytest.fixture(scope="session")
def pair(service: Service) -> tuple[Job, Job]:
    """A manual and an autograd job with otherwise the same spec."""
    body = {"seed": 7, "epochs": 6, "batch_size": 16}
    jobs = [service.submit(**body, name=f"pair, {way}", gradients=way) for way in ("manual", "autograd")]
    return tuple(service.wait(job["id"]) for job in jobs)  # type: ignore[return-value]


@pytest.fixture(scope="session")
def other(service: Service) -> Job:
    """A third job, with another learning rate and architecture."""
    net = {"type": "mlp", "hidden": [8]}
    body = {"seed": 7, "epochs": 4, "batch_size": 16, "lr": 0.01, "architecture": net}
    return service.wait(service.submit(**body, name="small, slow net")["id"])


@pytest.fixture(scope="session")
def marked(service: Service) -> list[Job]:
    """Two jobs whose names have the markup that plotly reads, and that differ in their gradients alone."""
    ways = (("", "manual"), (" &amp;", "autograd"))
    body = {"seed": 7, "epochs": 3, "batch_size": 16}
    jobs = [service.submit(**body, name=MARKUP + end, gradients=way) for end, way in ways]
    return [service.wait(job["id"]) for job in jobs]


def address(*jobs: Job, **view: str) -> str:
    return "/compare?" + "&".join([f"job={job['id']}" for job in jobs] + [f"{key}={view[key]}" for key in view])


def open_page(page: Page, *jobs: Job, **view: str) -> None:
    page.goto(address(*jobs, **view))
    expect(rows(page)).to_have_count(len(jobs))
    expect(page.locator("#chart .scatterlayer .trace").first).to_be_attached()


def rows(page: Page) -> Locator:
    return page.locator("#table tbody tr")


def lines(page: Page) -> dict[str, dict[str, Any]]:
    """The lines of the chart by name."""
    found: list[dict[str, Any]] = page.evaluate(
        "document.getElementById('chart').data.map(({name, x, y, yaxis}) => ({name, x: [...x], y: [...y], yaxis}))"
    )
    return {line["name"]: line for line in found}


def options(page: Page) -> Locator:
    """The options of the search box."""
    return page.get_by_role("listbox", name="Jobs that can be added").get_by_role("option")


def title_of_x(page: Page) -> Locator:
    return page.locator("#chart .xtitle")


def end_and_delete(service: Service, job: Job) -> None:
    """Cancel and delete a job, unless that is done already."""
    if service.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202:
        service.http.delete(f"/v1/jobs/{job['id']}").raise_for_status()


class TestTwoWays:
    def test_their_difference_is_drawn_and_its_maximum_shown(self, page: Page, pair, service: Service) -> None:
        open_page(page, *pair)
        expect(page.locator("#chart .scatterlayer .trace")).to_have_count(3)
        drawn = lines(page)
        assert drawn["difference"]["yaxis"] == "y2"
        curves = [service.series(job["id"])["train_loss"] for job in pair]
        apart = [abs(a[2] - b[2]) for a, b in zip(*curves, strict=True)]
        assert drawn["difference"]["y"] == pytest.approx(apart)
        said = page.locator("#said")
        expect(said).to_contain_text(f"{len(apart)} common steps")
        expect(said).to_contain_text("largest difference" if max(apart) else "bit for bit the same")

    def test_any_two_jobs_or_none_can_be_chosen(self, page: Page, pair, other: Job) -> None:
        open_page(page, other, *pair)
        expect(page.get_by_label("Difference of")).to_have_value(pair[0]["id"])
        page.get_by_label("Difference of").select_option(label=other["name"])
        expect(page.locator("#said")).to_contain_text(
            re.compile(f"{other['name']} and pair, .*largest difference .* at step")
        )
        assert f"difference={other['id']}," in page.url
        page.get_by_label("Difference of").select_option(label="none")
        expect(page.locator("#said")).to_be_empty()
        assert "difference=none" in page.url
        page.reload()
        expect(page.locator("#chart .scatterlayer .trace")).to_have_count(3)
        expect(page.get_by_label("Difference of")).to_have_value("")

    def test_jobs_that_differ_in_other_fields_are_not_chosen(self, page: Page, pair, other: Job) -> None:
        open_page(page, pair[0], other)
        expect(page.get_by_label("Difference of")).to_have_value("")
        expect(page.locator("#chart .scatterlayer .trace")).to_have_count(2)


class TestTable:
    def test_shows_differing_fields_and_results_and_folds_the_rest(self, page: Page, pair, other, axe, shot) -> None:
        open_page(page, *pair, other)
        heads = page.locator("#table thead tr").nth(1)
        expect(heads).to_contain_text("gradients")
        expect(heads).to_contain_text("architecture.hidden")
        expect(heads).not_to_contain_text("optimizer")
        expect(rows(page).first).to_contain_text("manual")
        expect(page.locator("#same summary")).to_contain_text("fields are the same in all")
        page.locator("#same summary").click()
        expect(page.locator("#same dl")).to_contain_text("optimizer.momentum")
        expect(page.locator("#same dl")).to_contain_text("devicecpu")
        axe(page)
        shot(page, "compare")

    def test_marks_the_best_value_of_each_result(self, page: Page, pair, other: Job) -> None:
        open_page(page, *pair, other)
        results = [job["result"] for job in (*pair, other)]
        assert results[2]["test_loss"] > min(result["test_loss"] for result in results)
        column = page.locator("#table thead tr").nth(1).locator("th").all_inner_texts().index("test loss")
        best = min(result["test_loss"] for result in results)
        for row, result in zip(rows(page).all(), results, strict=True):
            mark = row.locator("th, td").nth(column).locator(".best")
            expect(mark).to_have_count(1 if result["test_loss"] == best else 0)

    def test_as_csv_it_has_every_digit(self, page: Page, pair, other: Job) -> None:
        open_page(page, pair[0], other)
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        table = list(csv.DictReader(download.value.path().read_text().splitlines()))
        assert [row["id"] for row in table] == [pair[0]["id"], other["id"]]
        assert table[1]["name"] == "small, slow net"
        assert [float(row["lr"]) for row in table] == [0.1, 0.01]
        assert [float(row["test_loss"]) for row in table] == [job["result"]["test_loss"] for job in (pair[0], other)]

    def test_a_name_that_a_spreadsheet_would_evaluate_is_a_text_in_the_csv(self, page: Page, service: Service) -> None:
        names = ["=1+1", ' =HYPERLINK("http://a.invalid";"x")', "-0.5", "a;=1+1"]
        jobs = [service.submit(**SHORT, seed=3, name=name, labels={"k": name}) for name in names]
        for job in jobs:
            service.wait(job["id"])
        open_page(page, *jobs)
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        text = download.value.path().read_text()
        table = list(csv.DictReader(text.splitlines()))
        assert [row["name"] for row in table] == ["'=1+1", f"'{names[1]}", "-0.5", "a;=1+1"]
        assert all(cell[:1] not in "=+@" for row in table for cell in row.values() if cell)
        assert '"a;=1+1"' in text

    def test_cells_that_begin_a_formula_are_texts_and_numbers_stay_numbers(self, page: Page) -> None:
        page.goto("/compare")
        formulas = ["=1", "+1", "-a", "@a", "\ta", "\ra", "\na", "  =1", "\uff1d1", "-2+3"]
        rows = [[*formulas, "'a"], [-0.5, 1e-7, "-0.5", 3, None]]
        text = page.evaluate("async (rows) => (await import('/static/any/js/csv.js')).toCsv(rows)", rows)
        assert text == ",".join([*(f'"\'{cell}"' for cell in formulas), '"\'a"']) + "\r\n-0.5,1e-7,-0.5,3,\r\n"


class TestNames:
    def test_a_name_with_markup_is_drawn_as_it_is(self, page: Page, marked: list[Job]) -> None:
        open_page(page, *marked)
        expect(page.locator("#chart .legendtext")).to_have_text([MARKUP, f"{MARKUP} &amp;", "difference"])
        page.locator("#chart .nsewdrag").first.hover()
        expect(page.locator("#chart .hoverlayer .legendtext").first).to_contain_text(f"{MARKUP} : ")
        assert page.locator("#chart :is(a, b, tspan[style*=bold])").count() == 0

    def test_every_title_of_a_chart_is_drawn_as_it_is(self, page: Page, marked: list[Job]) -> None:
        """The titles have texts of the page alone today."""
        open_page(page, *marked)
        page.evaluate(
            """async (text) => {
                const { Curve } = await import('/static/any/js/curve.js');
                const place = document.getElementById('chart').cloneNode();
                document.getElementById('chart').replaceWith(place);
                const curve = new Curve(place, { name: text, x: text, y: text, y2: text });
                await curve.show([1, 2].map((n) => ({ name: text, x: [1, 2], y: [n, n], right: n === 2 })));
            }""",
            MARKUP,
        )
        for title in (".xtitle", ".ytitle", ".y2title"):
            expect(page.locator(f"#chart {title}")).to_have_text(MARKUP)
        expect(page.locator("#chart .legendtext")).to_have_text([MARKUP, MARKUP])
        assert page.locator("#chart a").count() == 0


class TestView:
    def test_curve_scale_axis_and_smoothing_are_chosen_and_kept_in_the_address(self, page: Page, pair) -> None:
        open_page(page, *pair, difference="none")
        page.get_by_label("Curve", exact=True).select_option("batch_loss")
        expect(page.locator("#chart .ytitle")).to_have_text("batch_loss")
        raw = lines(page)["pair, manual"]
        assert raw["x"][:2] == [50, 100]
        page.get_by_label("logarithmic").check()
        expect(page).to_have_url(re.compile("scale=log"))
        wait_for(
            lambda: page.evaluate("document.getElementById('chart').layout.yaxis.type === 'log'"), 30, "a log axis"
        )
        page.get_by_label("over", exact=True).select_option("epoch")
        expect(title_of_x(page)).to_have_text("epoch")
        assert lines(page)["pair, manual"]["x"][-1] == pytest.approx(
            raw["x"][-1] / (pair[0]["progress"]["total_steps"] / 6)
        )
        page.get_by_label("smoothing").fill("0.9")
        expect(page).to_have_url(re.compile("smoothing=0.9"))
        smooth = lines(page)["pair, manual"]["y"]
        assert smooth[1] == pytest.approx((0.9 * raw["y"][0] + raw["y"][1]) / 1.9)
        page.reload()
        expect(page.locator("#chart .ytitle")).to_have_text("batch_loss")
        expect(page.get_by_label("logarithmic")).to_be_checked()
        assert lines(page)["pair, manual"]["y"] == smooth

    def test_seconds_are_seconds_of_training(self, page: Page, pair) -> None:
        open_page(page, *pair, across="seconds")
        expect(title_of_x(page)).to_have_text("seconds of training")
        drawn = lines(page)
        for job in pair:
            assert drawn[job["name"]]["x"][-1] == pytest.approx(job["result"]["training_seconds"])

    def test_the_chart_is_saved_as_png(self, page: Page, pair) -> None:
        open_page(page, *pair)
        with page.expect_download() as download:
            page.get_by_role("button", name="PNG").click()
        assert download.value.path().read_bytes().startswith(b"\x89PNG")


class TestChoice:
    def test_without_jobs_the_page_says_how_to_choose_some(self, page: Page, axe, shot) -> None:
        page.goto("/compare")
        expect(page.locator("#empty")).to_contain_text("Select up to 12 jobs in the list of jobs")
        axe(page)

    def test_jobs_are_found_added_and_removed_by_keyboard_without_a_reload(self, page: Page, pair) -> None:
        page.goto("/compare")
        page.evaluate("window.sameDocument = true")
        page.keyboard.press("/")
        for job in pair:
            page.keyboard.type(job["name"])
            expect(options(page)).to_have_count(1)
            expect(options(page)).to_contain_text(job["name"])
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            expect(rows(page).filter(has_text=job["name"])).to_have_count(1)
        assert page.url.endswith(address(*pair))
        page.get_by_role("button", name="Remove pair, manual").focus()
        page.keyboard.press("Enter")
        expect(rows(page)).to_have_count(1)
        assert page.url.endswith(address(pair[1]))
        assert page.evaluate("window.sameDocument")

    def test_a_compared_job_is_not_listed_and_an_unknown_one_not_found(self, page: Page, pair, axe, complaints) -> None:
        complaints.expect("404")
        open_page(page, *pair)
        search = page.get_by_role("combobox", name="Add a job")
        search.fill(pair[0]["id"])
        expect(options(page)).to_have_text(["No other job matches."])
        axe(page)
        search.fill("job_" + 32 * "0")
        expect(options(page)).to_have_text(["No other job matches."])
        search.press("Escape")
        expect(options(page)).to_have_count(0)

    def test_colours_are_kept_when_another_job_is_removed(self, page: Page, pair, other: Job) -> None:
        open_page(page, *pair, other)
        swatch = rows(page).filter(has_text=other["name"]).locator(".swatch")
        before = swatch.get_attribute("style")
        page.get_by_role("button", name="Remove pair, manual").click()
        expect(rows(page)).to_have_count(2)
        assert swatch.get_attribute("style") == before

    @pytest.mark.long
    def test_at_most_twelve_jobs_are_compared(self, page: Page, service: Service, shot) -> None:
        jobs = [service.submit(**SHORT, lr=0.02 * (i + 1), seed=i, name=f"rate {i}") for i in range(13)]
        for job in jobs:
            service.wait(job["id"])
        page.goto(address(*jobs))
        expect(rows(page)).to_have_count(12)
        expect(page.locator(".toast")).to_contain_text(f"Remove one to add {jobs[12]['id']}")
        expect(page.locator("#chart .scatterlayer .trace")).to_have_count(12)
        page.locator(".toast button").click()
        shot(page, "compare-twelve")

    def test_what_cannot_be_compared_is_named(self, page: Page, pair, service: Service, complaints) -> None:
        complaints.expect("404")
        gone = service.wait(service.submit(epochs=1, name="soon gone")["id"])
        service.http.delete(f"/v1/jobs/{gone['id']}").raise_for_status()
        page.goto(address(*pair, gone) + "&job=nonsense")
        expect(page.locator("#wrong")).to_contain_text(
            f"{gone['id']} was not found: it was deleted, or belongs to another service"
        )
        expect(page.locator("#wrong")).to_contain_text("nonsense is not a job id")
        expect(rows(page)).to_have_count(2)
        for _ in range(2):
            page.get_by_role("button", name="Remove", exact=True).first.click()
        expect(page.locator("#wrong")).to_be_hidden()
        assert page.url.endswith(address(*pair))


class TestLive:
    def test_the_curve_of_a_running_job_grows_and_its_end_is_shown(
        self, page: Page, pair, service: Service, occupy
    ) -> None:
        job = occupy(name="long")
        open_page(page, job, pair[0])
        row = rows(page).filter(has_text="long")
        expect(row).to_contain_text("running")
        last = wait_for(lambda: lines(page)["long"]["x"][-1:], 60, "the first point")
        wait_for(lambda: lines(page)["long"]["x"][-1:] > last, 60, "another point")
        service.cancel(job["id"])
        expect(row).to_contain_text("cancelled")

    def test_a_button_keeps_the_focus_while_its_job_runs(self, page: Page, occupy) -> None:
        """A row is made anew with each change of its job: a key that is pressed then must not be lost."""
        job = occupy(name="runs with focus")
        page.goto(address(job))
        status = rows(page).locator("td").first
        expect(status).to_contain_text(re.compile(r"running [0-9.]"))
        button = page.get_by_role("button", name="Remove runs with focus")
        button.focus()
        expect(status).not_to_have_text(status.inner_text())
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#empty")).to_be_visible()

    def test_a_job_that_is_deleted_meanwhile_is_named(
        self, page: Page, pair, service: Service, complaints, occupy
    ) -> None:
        complaints.expect("404")
        for i in range(2):
            occupy(name=f"takes slot {i}")
        gone = service.submit(name="soon deleted", epochs=1)
        open_page(page, gone, pair[0])
        expect(rows(page).first).to_contain_text("queued")
        # between two polls of the page: it does not poll a job that it knows to have ended
        page.route(f"**/v1/jobs/{gone['id']}", lambda route: (end_and_delete(service, gone), route.continue_()))
        expect(page.locator("#wrong")).to_contain_text(f"“soon deleted” ({gone['id']}) was not found")
        expect(rows(page)).to_have_count(1)

    def test_a_queued_job_is_compared_too(self, page: Page, service: Service, occupy) -> None:
        long = [occupy(name=f"takes slot {i}") for i in range(2)]
        waits = service.submit(name="waits", epochs=1)
        page.goto(address(waits))
        expect(rows(page)).to_contain_text(["queued"])
        expect(page.locator("#none")).to_be_visible()
        for job in long:
            service.cancel(job["id"])
        expect(rows(page)).to_contain_text(["succeeded"])
        expect(page.locator("#none")).to_be_hidden()
