"""The page of one job: its content by kind and state, live updates, and actions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from support.browser import Complaints
from support.long_job import store_long_job
from support.service import Service
from support.waiting import wait_for

from shared.db.database import Database
from shared.jobs import joblog, jobs
from shared.spec.job_spec import JobSpec
from shared.spec.presets import PRESETS

LONG: dict[str, Any] = {"architecture": "mlp", "epochs": 10_000, "lr": 0.001, "seed": 1}
QUICK: dict[str, Any] = {"architecture": "mlp", "epochs": 12, "lr": 0.2, "gradients": "manual", "seed": 2}


@pytest.fixture(scope="module")
def finished(service: Service) -> dict[str, Any]:
    """A manual job that has succeeded. Tests do not change it."""
    return service.wait(service.submit(name="a finished job", **QUICK)["id"])


@pytest.fixture
def submit(service: Service) -> Iterator[Any]:
    """submit(**spec): a job that is cancelled after the test, if it still runs."""
    mine = []

    def send(**spec: Any) -> dict[str, Any]:
        mine.append(service.submit(**spec))
        return mine[-1]

    yield send
    for job in mine:
        if service.http.get(f"/v1/jobs/{job['id']}").status_code == 200:
            service.http.post(f"/v1/jobs/{job['id']}/cancel")
            service.wait(job["id"])


@pytest.fixture
def database(service: Service) -> Iterator[Database]:
    database = Database(f"sqlite:///{service.state}/gradq.db")
    yield database
    database.close()


def visit(page: Page, job: dict[str, Any]) -> None:
    page.goto(f"/jobs/{job['id']}", wait_until="domcontentloaded")
    page.evaluate("window.sameDocument = true")


def status(page: Page) -> Locator:
    return page.locator(".job-head .status")


def traces(page: Page, chart: str = "loss") -> Locator:
    return page.locator(f"#{chart}-chart .scatterlayer .trace")


def part(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title, exact=True)


class TestFinished:
    def test_all_results_are_shown(self, page: Page, finished, axe, shot) -> None:
        visit(page, finished)
        expect(status(page)).to_have_text("succeeded")
        expect(part(page, "Result")).to_contain_text(f"{100 * finished['result']['test_accuracy']:.2f}\u202f%")
        expect(traces(page)).to_have_count(4)
        expect(traces(page, "right")).to_have_count(2)
        expect(page.get_by_role("grid").get_by_role("row")).to_have_count(11)
        for picture in page.locator("img.picture").all():
            picture.scroll_into_view_if_needed()
            wait_for(lambda p=picture: p.evaluate("image => image.naturalWidth"), 30, "a picture")
        expect(page.locator("img.picture")).to_have_count(3)
        expect(page.locator("#lines")).to_contain_text("succeeded: test accuracy")
        expect(part(page, "History")).to_contain_text("Attempt 1 succeeded")
        expect(part(page, "Spec")).to_contain_text("seed")
        axe(page)
        shot(page, "job")

    def test_the_gradient_error_of_each_parameter_has_a_bar(self, page: Page, finished) -> None:
        visit(page, finished)
        rows = page.locator(".checks tbody tr")
        expect(rows).to_have_count(len(finished["result"]["gradient_check"]["parameters"]))
        expect(rows.first.locator("svg.bar")).to_have_count(1)

    def test_a_cell_of_the_confusion_matrix_is_explained_also_by_keyboard(self, page: Page, finished) -> None:
        visit(page, finished)
        cells = page.get_by_role("gridcell")
        cells.first.focus()
        expect(page.locator("#matrix [role=status]")).to_contain_text("of 0 classified correctly")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#matrix [role=status]")).to_contain_text("of 0 classified as 1")
        expect(page.locator("table.classes tbody tr")).to_have_count(10)

    def test_files_can_be_fetched_and_their_hashes_copied(self, page: Page, finished, service: Service) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit(page, finished)
        stored = service.artifacts(finished["id"])
        files = part(page, "Files")
        expect(files.get_by_role("listitem")).to_have_count(len(stored))
        files.get_by_role("button", name="Copy the SHA-256 of model.safetensors").click()
        expect(page.locator(".toast")).to_contain_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == stored["model.safetensors"]["sha256"]
        with page.expect_download() as download:
            files.get_by_role("link", name="spec.json").click()
        assert json.loads(download.value.path().read_text())["seed"] == finished["spec"]["seed"]
        with page.expect_download() as download:
            files.get_by_role("link", name=re.compile("All.*zip")).click()
        assert download.value.path().read_bytes().startswith(b"PK")

    def test_a_name_with_markup_is_text_everywhere(self, page: Page, service: Service) -> None:
        name = '<a href="https://a.invalid/">win</a> <b>b</b> $x$'
        job = service.wait(service.submit(**{**QUICK, "epochs": 3}, name=name)["id"])
        visit(page, job)
        expect(page.get_by_role("heading", level=1)).to_contain_text(name)
        for chart in ("#loss-chart", "#right-chart"):
            expect(page.locator(f"{chart} .scatterlayer .trace").first).to_be_attached()
            assert page.locator(f"{chart} a").count() == 0
        assert page.locator("a[href*='a.invalid']").count() == 0

    def test_the_curves_are_smoothed_and_saved_as_png(self, page: Page, finished) -> None:
        visit(page, finished)
        expect(traces(page)).to_have_count(4)
        axis = page.locator("#loss-chart .xtitle")
        page.keyboard.press("l")
        page.wait_for_function("() => document.querySelector('#loss-chart').layout.yaxis.type === 'log'")
        page.get_by_label("X axis").select_option("epoch")
        expect(axis).to_have_text("epoch")
        last = page.evaluate(
            "document.querySelector('#loss-chart').data.find((t) => t.name === 'training loss').x.at(-1)"
        )
        assert last == QUICK["epochs"]
        page.get_by_label("Smoothing").fill("0.6")
        expect(page.locator("#loss-chart .legend")).to_contain_text("batch loss, smoothed")
        page.get_by_label("Right chart").select_option("learning rate")
        expect(page.locator("#right-chart .ytitle")).to_have_text("learning rate")
        page.get_by_label("Right chart").select_option("speed")
        expect(page.locator("#right-chart .ytitle")).to_have_text("speed")
        with page.expect_download() as download:
            page.get_by_role("button", name="Loss as PNG").click()
        assert download.value.suggested_filename == "Loss.png"
        assert download.value.path().read_bytes().startswith(b"\x89PNG")

    def test_a_reproduction_is_shown_as_identical(self, page: Page, finished, service: Service) -> None:
        visit(page, finished)
        page.get_by_role("button", name="Reproduce").click()
        expect(page).to_have_url(re.compile(f"/jobs/(?!{finished['id']})job_"))
        expect(page.locator(".notices")).to_contain_text("identical: the same curve")
        expect(page.locator(".notices").get_by_role("link")).to_have_attribute("href", f"/jobs/{finished['id']}")


class TestLive:
    def test_a_job_waits_runs_and_ends_with_all_its_images_without_a_reload(
        self, page: Page, submit, service: Service
    ) -> None:
        before = [submit(name="in the way", priority=90, **LONG) for _ in range(2)]
        job = submit(name="live", **QUICK)
        visit(page, job)
        expect(status(page)).to_have_text("queued")
        expect(page.locator(".notices")).to_contain_text("Place 1 in the queue")
        expect(page.locator("#curves-state")).to_contain_text("No points yet")
        for blocker in before:
            service.cancel(blocker["id"])
        expect(traces(page).first).to_be_visible()
        expect(status(page)).to_have_text("succeeded")
        expect(page.locator("img.picture")).to_have_count(3)
        expect(page.get_by_role("grid")).to_be_visible()
        expect(page.locator("#said")).to_have_text("Status: succeeded")
        points = page.evaluate(
            "document.querySelector('#loss-chart').data.find((t) => t.name === 'training loss').x.length"
        )
        assert points == QUICK["epochs"]
        assert page.evaluate("window.sameDocument")

    def test_a_running_job_shows_its_progress_and_is_controlled_by_keys(
        self, page: Page, submit, service: Service, axe
    ) -> None:
        job = submit(name="obeys", **LONG)
        visit(page, job)
        expect(status(page)).to_have_text("running")
        expect(page.locator("[data-live=left]")).to_contain_text("left")
        expect(page.locator("[data-last=val_accuracy]")).to_contain_text("%")
        axe(page)
        page.keyboard.press("p")
        expect(status(page)).to_have_text("paused")
        page.keyboard.press("p")
        expect(status(page)).to_have_text(re.compile("queued|running"))
        page.keyboard.press("c")
        page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
        expect(status(page)).to_have_text("cancelled")
        expect(page.locator(".notices")).to_contain_text("cancelled by user")
        page.keyboard.press("r")
        expect(status(page)).to_have_text(re.compile("queued|running"))
        expect(part(page, "History")).to_contain_text("Attempt 3")
        page.get_by_role("button", name="Cancel").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")  # from Keep, which is the answer at hand
        page.keyboard.press("Enter")
        expect(status(page)).to_have_text("cancelled")
        assert page.evaluate("window.sameDocument")

    def test_the_log_follows_until_it_is_paused(self, page: Page, submit) -> None:
        visit(page, submit(name="talks", **LONG))
        page.get_by_label("Type").select_option("metric")
        expect(page.locator("#lines li").first).to_be_visible()
        # the list is empty for a moment: a new filter reads it anew
        grown = "(count) => document.querySelector('#lines').lastElementChild?.dataset.seq > count"
        seen = page.locator("#lines li").last.get_attribute("data-seq")
        page.wait_for_function(grown, arg=int(seen or 0))
        page.keyboard.press("f")
        expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
        last = page.locator("#lines li").last.get_attribute("data-seq")
        expect(page.locator("#log-state")).to_contain_text("new lines")
        assert page.locator("#lines li").last.get_attribute("data-seq") == last
        page.get_by_role("button", name="Follow").click()
        page.wait_for_function(grown, arg=int(last or 0))


class TestChanges:
    def test_name_priority_and_labels_are_edited_and_an_error_is_shown_at_its_field(
        self, page: Page, submit, service: Service, complaints: Complaints, axe
    ) -> None:
        complaints.expect("422")
        job = service.wait(submit(name="old", labels={"team": "vision"}, **QUICK)["id"])
        visit(page, job)
        page.keyboard.press("e")
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill("new name")
        dialog.get_by_label("Priority").fill("1000")
        dialog.get_by_role("button", name="Remove this label").click()
        dialog.get_by_role("button", name="Add a label").click()
        dialog.get_by_label("Key").fill("stage")
        dialog.get_by_label("Value").fill("final")
        axe(page)
        dialog.get_by_role("button", name="Save").click()
        expect(dialog.get_by_label("Priority")).to_have_attribute("aria-invalid", "true")
        expect(dialog.get_by_label("Priority")).to_be_focused()
        dialog.get_by_label("Priority").fill("70")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("new name")
        expect(page).to_have_title("new name · gradq")
        expect(page.locator(".job-head .chip")).to_have_text("stage: final")
        changed = service.job(job["id"])
        assert (changed["name"], changed["priority"], changed["labels"]) == ("new name", 70, {"stage": "final"})

    def test_deletion_asks_first(self, page: Page, submit, service: Service) -> None:
        job = service.wait(submit(name="goes", **QUICK)["id"])
        visit(page, job)
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Keep").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert service.job(job["id"])
        page.keyboard.press("d")
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page).to_have_url(re.compile(r"/$"))
        assert service.http.get(f"/v1/jobs/{job['id']}").status_code == 404

    def test_a_job_deleted_by_another_user_is_shown_as_deleted(
        self, page: Page, submit, service: Service, complaints: Complaints
    ) -> None:
        complaints.expect("404")
        job = service.wait(submit(name="went", **QUICK)["id"])
        visit(page, job)
        service.http.delete(f"/v1/jobs/{job['id']}")
        page.keyboard.press("r")
        expect(page.locator(".toast.bad")).to_contain_text("not found")
        expect(page.locator(".notices")).to_contain_text("This job has been deleted")

    def test_a_refusal_shows_the_detail_of_the_service(self, page: Page, finished, complaints: Complaints) -> None:
        complaints.expect("403")
        refusal = {"status": 403, "code": "forbidden", "title": "Not allowed", "detail": "this token may only read"}
        page.route("**/reproduce", lambda route: route.fulfill(status=403, json=refusal))
        visit(page, finished)
        page.get_by_role("button", name="Reproduce").click()
        expect(page.locator(".toast.bad")).to_contain_text("this token may only read")


class TestOtherJobs:
    def test_a_gradient_check_shows_both_comparisons_and_no_curve(
        self, page: Page, service: Service, axe, shot
    ) -> None:
        answer = service.http.post("/v1/gradient-checks", json={"architecture": "mlp", "samples": 5})
        job = service.wait(answer.json()["id"])
        visit(page, job)
        expect(part(page, "Result")).to_contain_text("passed")
        expect(page.locator(".checks tbody tr").first.locator("svg.bar")).to_have_count(2)
        expect(page.locator("#loss-chart")).to_have_count(0)
        expect(page.get_by_role("button", name="Reproduce")).to_have_count(0)
        axe(page)
        shot(page, "gradient-check")

    def test_a_failed_job_shows_the_reason(self, page: Page, submit, service: Service, axe) -> None:
        job = service.wait(
            submit(name="<b>diverges</b>", architecture="mlp", lr=1e30, epochs=3, gradients="autograd")["id"]
        )
        assert job["status"] == "failed"
        visit(page, job)
        expect(page.get_by_role("heading", level=1)).to_have_text("<b>diverges</b>")
        expect(page.locator(".notice.bad")).to_contain_text(job["status_reason"]["detail"])
        expect(traces(page)).not_to_have_count(0)  # the loss of the steps before it diverged
        page.get_by_label("Level").select_option("errors")
        expect(page.locator("#lines li.level-error").first).to_be_visible()
        axe(page)

    def test_the_article_s_figures_are_shown_next_to_ours(self, page: Page, finished, database: Database) -> None:
        preset = PRESETS["article/manual-linear-continued"]
        like = jobs.new_id("job")
        body = {"preset": preset.name, **preset.spec, "init_from": {"job": like}, "name": "as the article", "seed": 1}
        with database.write() as session:
            job = jobs.create(session, JobSpec.model_validate(body))
            job.state, job.finished_at, job.result = "succeeded", joblog.now(), finished["result"]
            job.progress = {"epoch": 20, "epochs": 20, "step": 20, "total_steps": 20, "examples_per_second": 1.0}
            metrics = [{"val_accuracy": 0.8 + epoch / 200} for epoch in range(1, 21)]
            lines = [
                joblog.Line("metric", "", {"series": "epoch", "step": i, "epoch": i, "metrics": m}, "info", "epoch", i)
                for i, m in enumerate(metrics, 1)
            ]
            joblog.insert_lines(session, job.id, 1, 2, lines)
            job.last_seq = 21
            shown = {"id": job.id}
        visit(page, shown)
        expect(page.locator("#article tbody tr")).to_have_text(
            ["first val accuracy0.8650.805", "last val accuracy0.77290.9"]
        )
        expect(page.locator("#right-chart .legend")).to_contain_text("article")


@pytest.mark.long
class TestLongLog:
    def test_a_job_with_100_000_points_is_drawn_and_its_log_read_from_the_end(
        self, page: Page, finished, database: Database
    ) -> None:
        job = {"id": store_long_job(database, 100_000)}
        visit(page, job)
        expect(traces(page)).to_have_count(1)
        drawn = page.evaluate(
            "(({ x, y }) => [x.length, x.at(-1), Math.max(...y)])(document.querySelector('#loss-chart').data[0])"
        )
        assert drawn[0] <= 1000
        assert drawn[1] == 5_000_000
        assert drawn[2] == pytest.approx(2.084, abs=0.001)
        expect(page.locator("#lines li")).to_have_text(
            [re.compile("job queued"), re.compile("but one"), re.compile("the last line")]
        )
        page.get_by_label("Type").select_option("all")
        expect(page.locator("#lines li")).to_have_count(200)
        for _ in range(3):
            count = page.locator("#lines li").first.get_attribute("data-seq")
            page.get_by_role("button", name="Earlier lines").click()
            page.wait_for_function("(seq) => document.querySelector('#lines li').dataset.seq !== seq", arg=count)
        expect(page.locator("#lines li")).to_have_count(500)
        page.get_by_role("button", name="Follow").click()
        expect(page.locator("#lines li").last).to_contain_text("the last line")
