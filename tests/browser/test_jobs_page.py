"""The list of jobs: content, live updates, filters and bulk actions. Each test sees only its own jobs, by a label."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from support.browser import Complaints
from support.service import Service
from support.waiting import wait_for

LONG: dict[str, Any] = {"architecture": "linear", "batch_size": 4, "epochs": 10_000, "lr": 0.001, "seed": 1}
QUICK: dict[str, Any] = {"architecture": "mlp", "epochs": 12, "lr": 0.2, "gradients": "manual", "seed": 2}
STREAM = "text/event-stream"


@pytest.fixture
def mine(request: pytest.FixtureRequest, service: Service):
    """mine(**spec) submits a job with this test's label; `mine.page` shows only these. All are cancelled at the end."""

    class Mine:
        label = re.sub(r"\W+", "-", request.node.name)[:60].strip("-")
        page = f"/?label.test={label}"

        def __call__(self, **spec: Any) -> dict[str, Any]:
            return service.submit(labels={"test": self.label}, **spec)

    yield Mine()
    everything = {"action": "cancel", "filter": {"labels": {"test": Mine.label}}}
    service.http.post("/v1/jobs/bulk", json=everything)
    wait_for(
        lambda: all(job["terminal"] for job in service.http.get(f"/v1/jobs{Mine.page[1:]}&limit=100").json()["data"]),
        60,
        "the end of this test's jobs",
    )


def row(page: Page, job: dict[str, Any]):
    return page.locator(f"#{job['id']}")


class TestLive:
    def test_a_job_appears_runs_and_ends_without_a_reload(self, page: Page, mine, service: Service) -> None:
        page.goto(mine.page)
        page.evaluate("window.sameDocument = true")
        expect(page.get_by_text("No job matches")).to_be_visible()
        job = mine(name="appears", **QUICK)
        expect(row(page, job)).to_be_visible()
        expect(row(page, job).locator(".status")).to_have_text("succeeded")
        expect(row(page, job).locator(".spark")).to_have_attribute("aria-label", re.compile("loss from .* to "))
        tested = service.job(job["id"])["result"]["test_accuracy"]
        expect(row(page, job).locator(".accuracy")).to_have_text(f"{100 * tested:.1f}\u202f%")
        expect(row(page, job).locator(".progress")).to_contain_text("12 epochs in ")
        assert page.evaluate("window.sameDocument")

    def test_a_running_job_shows_its_progress(self, page: Page, mine) -> None:
        job = mine(name="runs", **LONG)
        page.goto(mine.page)
        expect(row(page, job).locator(".status")).to_have_text("running")
        bar = row(page, job).locator("progress")
        expect(bar).to_be_visible()
        expect(row(page, job).locator(".progress .why")).to_contain_text("left")
        expect(row(page, job).locator(".device")).to_have_text("cpu")
        first = float(bar.get_attribute("value") or 0)
        page.wait_for_function(
            "([id, first]) => Number(document.querySelector(`#${id} progress`).value) > first", arg=[job["id"], first]
        )

    def test_on_a_phone_the_numbers_of_a_row_do_not_overlap(self, page: Page, mine, service: Service) -> None:
        job = mine(name="ended early", **LONG)
        page.set_viewport_size({"width": 360, "height": 740})
        page.goto(mine.page)
        loss, progress = (row(page, job).locator(part) for part in (".loss span", ".progress .muted"))
        expect(loss).to_be_visible()
        service.cancel(job["id"])
        expect(progress).to_contain_text("of 10\u2009000 epochs in")
        left, right = loss.bounding_box(), progress.bounding_box()
        assert left
        assert right
        assert left["x"] + left["width"] <= right["x"]

    def test_a_queued_job_shows_its_position_and_why_it_waits(self, page: Page, mine) -> None:
        for number in range(2):
            mine(name=f"takes slot {number}", **LONG)
        first, second = mine(name="waits", **LONG), mine(name="waits longer", **LONG)
        page.goto(mine.page)
        expect(row(page, first).locator(".why")).to_contain_text("1st in the queue: 0 jobs ahead, 0 of 2 slots free")
        expect(row(page, second).locator(".why")).to_contain_text("2nd in the queue: 1 job ahead")

    def test_a_deleted_job_disappears_from_the_page(self, page: Page, mine, service: Service) -> None:
        job = mine(**QUICK)
        service.wait(job["id"])
        page.goto(mine.page)
        expect(row(page, job)).to_be_visible()
        service.http.delete(f"/v1/jobs/{job['id']}")
        expect(row(page, job)).to_have_count(0)
        expect(page.locator("#none")).to_be_visible()

    def test_selection_and_focus_survive_an_update(self, page: Page, mine) -> None:
        job = mine(name="ticked", **LONG)
        page.goto(mine.page)
        row(page, job).get_by_role("checkbox").check()
        row(page, job).get_by_role("link", name="ticked", exact=True).focus()
        version = row(page, job).get_attribute("data-version")
        expect(row(page, job)).not_to_have_attribute("data-version", version or "")
        expect(row(page, job).get_by_role("checkbox")).to_be_checked()
        expect(page.locator(":focus")).to_have_text("ticked")

    def test_without_a_free_stream_the_page_polls(self, page: Page, mine, complaints: Complaints) -> None:
        complaints.expect("503")

        def refuse(route: Route) -> None:
            if not is_stream(route):
                return route.fallback()
            body = '{"status": 503, "code": "too_many_streams", "detail": "no more streams", "errors": []}'
            return route.fulfill(status=503, content_type="application/problem+json", body=body)

        page.route("**/*", refuse)
        page.goto(mine.page)
        expect(page.locator("#live")).to_have_text("live, every few seconds")
        job = mine(**QUICK)
        expect(row(page, job).locator(".status")).to_have_text("succeeded")

    def test_the_page_reconnects_to_the_service(self, page: Page, mine, complaints: Complaints) -> None:
        complaints.expect("net::ERR_CONNECTION_REFUSED")
        page.route("**/*", lambda route: route.abort("connectionrefused") if is_stream(route) else route.fallback())
        page.goto(mine.page)
        expect(page.locator("#live")).to_contain_text("retrying")
        page.unroute_all()
        expect(page.locator("#live")).to_have_text("live")
        expect(row(page, mine(**QUICK))).to_be_visible()

    def test_a_rate_limited_stream_reconnects_after_retry_after(self, page: Page, mine, complaints: Complaints) -> None:
        complaints.expect("429")
        refusals = []

        def refuse(route: Route) -> None:
            if not is_stream(route) or refusals:
                return route.fallback()
            refusals.append(route.request.url)
            body = '{"status": 429, "code": "rate_limited", "detail": "too often", "errors": []}'
            headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
            return route.fulfill(status=429, headers=headers, body=body)

        page.route("**/*", refuse)
        page.goto(mine.page)
        expect(page.locator("#live")).to_have_text("live")
        assert refusals

    def test_a_hidden_page_holds_no_stream(self, page: Page, mine) -> None:
        page.goto(mine.page)
        expect(page.locator("#live")).to_have_text("live")
        with page.expect_event("requestfailed", lambda request: request.headers["accept"] == STREAM):
            look(page, hidden=True)
        with page.expect_event("request", lambda request: request.headers["accept"] == STREAM):
            look(page, hidden=False)
        expect(row(page, mine(**QUICK))).to_be_visible()


def is_stream(route: Route) -> bool:
    return route.request.headers.get("accept") == STREAM


def look(page: Page, hidden: bool) -> None:
    page.evaluate(f"""() => {{
        Object.defineProperty(document, "hidden", {{ value: {str(hidden).lower()}, configurable: true }});
        document.dispatchEvent(new Event("visibilitychange"));
    }}""")


class TestViews:
    @pytest.fixture
    def three(self, mine, service: Service) -> dict[str, dict[str, Any]]:
        """One job that succeeded, one that failed, one that runs."""
        jobs = {
            "good": mine(name="good-one", **QUICK),
            "bad": mine(name="bad-one", **{**QUICK, "lr": 1e30, "optimizer": "basic"}),
            "runs": mine(name="running-one", **LONG),
        }
        for name in ("good", "bad"):
            service.wait(jobs[name]["id"])
        return jobs

    def names(self, page: Page) -> list[str]:
        return page.locator("#rows .name a:first-child").all_text_contents()

    def test_the_status_filter_is_in_the_address_as_in_the_api(self, page: Page, mine, three, service: Service) -> None:
        page.goto(mine.page)
        expect(page.locator("#rows tr")).to_have_count(3)
        page.get_by_role("link", name=re.compile("^Failed")).click()
        expect(page.locator("#rows tr")).to_have_count(1)
        page.get_by_role("link", name=re.compile("^Succeeded")).click()
        expect(page.locator("#rows tr")).to_have_count(2)
        query = parse_qs(urlsplit(page.url).query)
        assert set(query["status"][0].split(",")) == {"succeeded", "failed"}
        listed = service.http.get(f"/v1/jobs?{urlsplit(page.url).query}").json()["data"]
        assert [job["name"] for job in listed] == self.names(page) == ["bad-one", "good-one"]
        page.reload()
        assert self.names(page) == ["bad-one", "good-one"]
        page.go_back()
        expect(page.locator("#rows tr")).to_have_count(1)
        page.go_back()
        expect(page.locator("#rows tr")).to_have_count(3)

    def test_of_two_views_the_one_requested_last_is_shown(self, page: Page, mine, three) -> None:
        page.goto(mine.page)
        page.route("**/*status=failed", lambda route: None)  # no response
        page.get_by_role("link", name=re.compile("^Failed")).click()
        with page.expect_event("requestfailed", lambda request: request.url.endswith("status=failed")):
            page.get_by_role("link", name=re.compile("^Succeeded")).click()
        page.wait_for_url("**status=succeeded")
        expect(page.locator("#rows .name a:first-child")).to_have_text(["good-one"])

    def test_the_filter_running_includes_cancelling_and_pausing(self, page: Page, mine, three) -> None:
        page.goto(mine.page)
        page.get_by_role("link", name=re.compile("^Running")).click()
        expect(page.locator("#rows tr")).to_have_count(1)
        assert parse_qs(urlsplit(page.url).query)["status"] == ["running,cancelling,pausing"]

    def test_a_search_finds_parts_of_names_and_labels(self, page: Page, mine, three) -> None:
        page.goto(mine.page)
        page.keyboard.press("/")
        page.keyboard.type("BAD")
        page.keyboard.press("Enter")
        expect(page.locator("#rows tr")).to_have_count(1)
        assert parse_qs(urlsplit(page.url).query) == {"label.test": [mine.label], "name": ["*BAD*"]}
        page.get_by_role("searchbox").fill("*-one colour=none")
        page.keyboard.press("Enter")
        page.wait_for_url("**label.colour=none*")
        expect(page.get_by_text("No job matches")).to_be_visible()
        page.get_by_role("link", name="Remove the filter label colour=none").click()
        expect(page.locator("#rows tr")).to_have_count(3)

    def test_times_are_entered_in_the_local_time_zone(self, page: Page, mine, three) -> None:
        page.goto(mine.page)
        page.get_by_text("Created", exact=True).click()
        page.get_by_label("after").fill("2021-05-06T07:08")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**created_after=2021-05-06T07%3A08%3A00.000Z*")
        expect(page.locator("#rows tr")).to_have_count(3)
        page.get_by_label("before").fill("2021-05-07T00:00")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("#none")).to_be_visible()

    def test_an_invalid_query_names_its_parameters(self, page: Page, complaints: Complaints) -> None:
        complaints.expect("422")
        page.goto("/?stauts=failed&limit=7000")
        expect(page.locator("main")).to_contain_text("stauts unknown parameter; did you mean 'status'?")
        expect(page.locator("main")).to_contain_text("limit must be less than or equal to 100")

    def test_older_jobs_are_on_further_pages(self, page: Page, mine, service: Service) -> None:
        jobs = [mine(name=f"number {number}", **LONG) for number in range(5)]
        page.goto(f"{mine.page}&limit=2")
        assert self.names(page) == ["number 4", "number 3"]
        page.get_by_role("link", name="Older", exact=True).click()
        expect(row(page, jobs[2])).to_be_visible()
        page.get_by_role("link", name="Older", exact=True).click()
        expect(row(page, jobs[0])).to_be_visible()
        expect(page.get_by_role("link", name="Older", exact=True)).to_have_count(0)
        page.get_by_role("link", name="Newest", exact=True).click()
        expect(row(page, jobs[4])).to_be_visible()

    def test_without_scripts_the_list_can_be_read_and_searched(
        self, browser: Browser, mine, three, service: Service
    ) -> None:
        context = browser.new_context(base_url=str(service.http.base_url), java_script_enabled=False)
        page = context.new_page()
        page.goto(mine.page)
        assert self.names(page) == ["running-one", "bad-one", "good-one"]
        page.get_by_role("searchbox").fill("good")
        page.keyboard.press("Enter")
        expect(page.locator("#rows .name a:first-child")).to_have_text(["good-one"])
        context.close()

    def test_texts_of_users_are_escaped(self, page: Page, mine) -> None:
        evil = "<img src=x onerror=alert(1)>\"'&"
        page.goto(mine.page)
        job = mine(name=evil, **QUICK)
        expect(row(page, job).locator(".name a").first).to_have_text(evil)  # as sent by the stream
        page.reload()
        expect(row(page, job).locator(".name a").first).to_have_text(evil)
        expect(page.locator("#rows img")).to_have_count(0)

    def test_looks(self, page: Page, mine, three, service: Service, axe, shot: Callable[[Page, str], None]) -> None:
        for number in range(2):
            mine(name=f"waits-{number}", **{**LONG, "architecture": "cnn"})
        mine(name="waits-for-a-slot", **LONG)
        page.goto(mine.page)
        expect(row(page, three["runs"]).locator(".spark")).to_be_visible()
        axe(page)
        shot(page, "jobs")
        row(page, three["good"]).get_by_role("checkbox").check()
        row(page, three["bad"]).get_by_role("checkbox").check()
        axe(page)
        shot(page, "jobs-selected")


def answer(page: Page, button: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()


class TestSteering:
    def test_several_jobs_are_cancelled_retried_and_deleted(self, page: Page, mine, service: Service) -> None:
        jobs = [mine(name=f"steered {number}", **LONG) for number in range(3)]
        page.goto(mine.page)
        expect(page.locator("#bar")).to_be_hidden()
        page.get_by_label("Select all on this page").check()
        expect(page.locator("#picked")).to_have_text("3 selected")
        expect(page.get_by_role("button", name="Retry")).to_be_disabled()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("dialog")).to_contain_text("Cancel 3 jobs?")
        page.get_by_role("button", name="Keep").click()
        page.get_by_role("button", name="Cancel").click()
        answer(page, "Cancel 3 jobs")
        expect(page.get_by_text("3 jobs cancelled")).to_be_visible()
        for job in jobs:
            expect(row(page, job).locator(".status")).to_have_text("cancelled")
        for job in jobs[:2]:
            row(page, job).get_by_role("checkbox").check()
        page.get_by_role("button", name="Retry").click()
        answer(page, "Retry 2 jobs")
        expect(page.get_by_text("2 jobs queued again")).to_be_visible()
        expect(page.locator("#rows .status").filter(has_text="cancelled")).to_have_count(1)
        service.http.post("/v1/jobs/bulk", json={"action": "cancel", "ids": [job["id"] for job in jobs]})
        expect(page.locator("#rows .status").filter(has_text="cancelled")).to_have_count(3)
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("dialog")).to_contain_text("Delete 3 jobs?")
        page.get_by_role("button", name="Keep").click()
        expect(page.locator("#rows tr")).to_have_count(3)
        page.get_by_role("button", name="Delete").click()
        answer(page, "Delete 3 jobs")
        expect(page.locator("#rows tr")).to_have_count(0)
        assert service.http.get(f"/v1/jobs/{jobs[0]['id']}").status_code == 404

    def test_an_action_applies_to_all_matching_jobs_on_every_page(self, page: Page, mine, service: Service) -> None:
        jobs = [mine(name=f"one of many {number}", **LONG) for number in range(4)]
        spared = service.submit(name="spared", labels={"test": "another"}, **LONG)
        page.goto(f"{mine.page}&limit=2&status=queued,running")
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Select all matching jobs").click()
        expect(page.locator("#picked")).to_have_text("All matching jobs")
        expect(page.get_by_role("button", name="Compare")).to_be_disabled()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("dialog")).to_contain_text("Cancel all 4 jobs that match?")
        answer(page, "Cancel 4 jobs")
        expect(page.get_by_text("4 jobs cancelled")).to_be_visible()
        for job in jobs:
            assert service.wait(job["id"])["status"] == "cancelled"
        assert not service.job(spared["id"])["terminal"]
        service.cancel(spared["id"])
        page.goto(f"{mine.page}&limit=2")
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Select all matching jobs").click()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("dialog")).to_contain_text("Delete all 4 jobs that match?")
        answer(page, "Delete 4 jobs")
        expect(page.get_by_text("4 jobs deleted")).to_be_visible()
        expect(page.get_by_text("No job matches")).to_be_visible()

    def test_an_action_applies_to_the_selected_jobs_that_allow_it(self, page: Page, mine, service: Service) -> None:
        done, running = mine(name="done", **QUICK), mine(name="running", **LONG)
        service.wait(done["id"])
        page.goto(mine.page)
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Cancel 1").click()
        answer(page, "Cancel the job")
        expect(row(page, running).locator(".status")).to_have_text("cancelled")
        expect(row(page, done).locator(".status")).to_have_text("succeeded")

    def test_a_refusal_of_a_bulk_action_is_shown(self, page: Page, mine, service: Service) -> None:
        job = mine(name="quicker than you", **LONG)
        page.goto(mine.page)
        row(page, job).get_by_role("checkbox").check()

        def overtake(route: Route) -> None:
            """The job is deleted between the update of the page and the click."""
            service.cancel(job["id"])
            service.wait(job["id"])
            service.http.delete(f"/v1/jobs/{job['id']}")
            route.fallback()

        page.route("**/v1/jobs/bulk", overtake)
        page.get_by_role("button", name="Cancel").click()
        answer(page, "Cancel the job")
        expect(page.get_by_role("alert")).to_contain_text("not found")

    def test_two_to_twelve_selected_jobs_are_compared(self, page: Page, mine) -> None:
        jobs = [mine(name=f"compared {number}", **QUICK) for number in range(2)]
        page.goto(mine.page)
        row(page, jobs[0]).get_by_role("checkbox").check()
        expect(page.get_by_role("button", name="Compare")).to_be_disabled()
        row(page, jobs[1]).get_by_role("checkbox").check()
        page.get_by_role("button", name="Compare").click()
        page.wait_for_url("**/compare?*")
        assert set(parse_qs(urlsplit(page.url).query)["job"]) == {job["id"] for job in jobs}

    def test_the_keyboard_alone_opens_selects_and_cancels(self, page: Page, mine) -> None:
        older, newer = mine(name="older", **LONG), mine(name="newer", **LONG)
        page.goto(mine.page)
        page.keyboard.press("j")
        expect(page.locator(":focus")).to_have_text("newer")
        page.keyboard.press("j")
        page.keyboard.press("x")
        expect(row(page, older).get_by_role("checkbox")).to_be_checked()
        page.keyboard.press("c")
        expect(page.get_by_role("dialog")).to_contain_text("Cancel older?")
        page.keyboard.press("Enter")  # the answer at hand is to keep it
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.keyboard.press("c")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(row(page, older).locator(".status")).to_have_text("cancelled")
        expect(row(page, newer).locator(".status")).not_to_have_text("cancelled")
        page.keyboard.press("k")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/jobs/{newer['id']}")
