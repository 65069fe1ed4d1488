"""The Submit page: every field of the spec, checks while typing, submission, and code snippets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any
from urllib.parse import quote, urlencode

from playwright.sync_api import Locator, Page, Route, expect
from support.images import npz, small
from support.people import token_for
from support.postgres import part_missing
from support.service import Service

from api.access.auth import COOKIE
from shared.db.database import Database
from shared.spec.job_spec import JobSpec
from shared.tokens import Scope

READY = "Ready to submit"
JOB = re.compile(r"/jobs/(job_[0-9a-f]{32})$")


def open_form(page: Page, **query: Any) -> None:
    page.goto("/submit" + (f"?{urlencode(query)}" if query else ""))
    expect(page.locator("#verdict")).not_to_have_text("Checking …")


def body_of(page: Page) -> Any:
    return json.loads(page.locator("#code").text_content() or "")


def field(page: Page, pointer: str) -> Locator:
    """The visible input for this pointer of the spec."""
    return page.locator(f'[data-pointer="{pointer}"]').locator("visible=true")


def error_of(page: Page, pointer: str) -> Locator:
    """The error message of a field, in the element that its aria-describedby refers to."""
    expect(field(page, pointer)).to_have_attribute("aria-invalid", "true")
    (described,) = [i for i in (field(page, pointer).get_attribute("aria-describedby") or "").split() if "wrong" in i]
    return page.locator(f"[id='{described}']")


def submit(page: Page, service: Service) -> Any:
    """Click the button; returns the job that was created."""
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(JOB)
    return service.http.get("/v1" + page.url.removeprefix(str(service.http.base_url).rstrip("/"))).json()


def jobs_labelled(service: Service, **label: str) -> list[Any]:
    ((key, value),) = label.items()
    return service.http.get("/v1/jobs", params={f"label.{key}": value}).json()["data"]


class TestFields:
    def test_an_untouched_form_sends_no_field_and_shows_every_default(self, page: Page, service: Service, axe, shot):
        open_form(page)
        assert body_of(page) == {}
        names = page.locator(".group > [data-fields] > [data-kind]").evaluate_all(
            "all => all.map((e) => e.dataset.name)"
        )
        assert sorted(names) == sorted(JobSpec.model_fields.keys() - {"preset"})
        expect(field(page, "/lr")).to_have_value("0.1")
        expect(page.locator("#f-lr-help")).to_have_text(re.compile("above 0"))
        axe(page)
        shot(page, "submit")

    def test_the_job_has_the_chosen_values(self, page: Page, service: Service, axe, shot) -> None:
        open_form(page)
        page.get_by_role("button", name="Add one").first.click()
        page.get_by_role("button", name="Add one").first.click()
        field(page, "/augment/1").select_option("rotate")
        field(page, "/augment/1/degrees").fill("15")
        field(page, "/validation").select_option("test")
        field(page, "/architecture").select_option("cnn")
        field(page, "/architecture/channels").fill("4, 8")
        field(page, "/architecture/kernel").select_option("5")
        field(page, "/architecture/batch_norm").check()
        field(page, "/optimizer").select_option("adamw")
        field(page, "/optimizer/betas").fill("0.8 0.99")
        field(page, "/lr").fill("3e-3")
        field(page, "/schedule").select_option("onecycle")
        field(page, "/loss").select_option("clamped_cross_entropy")
        field(page, "/early_stopping").check()
        field(page, "/early_stopping/patience_epochs").fill("7")
        field(page, "/epochs").fill("1")
        field(page, "/name").fill("by the form")
        field(page, "/seed").fill("7")
        page.get_by_role("button", name="Add one").last.click()
        page.get_by_label("Key", exact=True).fill("team/a")
        page.get_by_label("Value", exact=True).fill('it\'s "vision"')
        page.get_by_text("Advanced").click()
        field(page, "/checkpoint/every_seconds").fill("")
        field(page, "/checkpoint/every_epochs").fill("2")
        expect(field(page, "/checkpoint/every_seconds")).to_have_attribute("placeholder", "none")
        expect(page.locator("#verdict")).to_have_text(READY)
        sent = {
            "validation": "test",
            "augment": ["shift", {"type": "rotate", "degrees": 15}],
            "architecture": {"type": "cnn", "channels": [4, 8], "kernel": 5, "batch_norm": True},
            "lr": 0.003,
            "epochs": 1,
            "optimizer": {"type": "adamw", "betas": [0.8, 0.99]},
            "schedule": "onecycle",
            "loss": "clamped_cross_entropy",
            "early_stopping": {"patience_epochs": 7},
            "name": "by the form",
            "seed": 7,
            "labels": {"team/a": 'it\'s "vision"'},
            "checkpoint": {"every_seconds": None, "every_epochs": 2},
        }
        assert body_of(page) == sent
        axe(page)
        shot(page, "submit-filled")
        assert submit(page, service)["spec"] == JobSpec.parse(sent).to_json()

    def test_typed_values_are_kept_while_another_option_is_chosen(self, page: Page) -> None:
        open_form(page)
        field(page, "/optimizer/momentum").fill("0.9")
        field(page, "/optimizer").select_option("adam")
        assert body_of(page) == {"optimizer": "adam"}
        field(page, "/optimizer").select_option("sgd")
        assert body_of(page) == {"optimizer": {"type": "sgd", "momentum": 0.9}}

    def test_removing_an_entry_moves_the_focus_to_its_neighbour(self, page: Page) -> None:
        open_form(page)
        for kind in ("shift", "flip", "crop"):
            page.get_by_role("button", name="Add one").first.click()
            expect(page.locator(":focus")).to_have_attribute("data-pointer", re.compile("^/augment/[012]$"))
            page.locator(":focus").select_option(kind)
        page.get_by_role("button", name="Remove this one").nth(1).click()
        assert body_of(page) == {"augment": ["shift", "crop"]}
        expect(page.locator(":focus")).to_have_accessible_name("Remove this one")
        expect(field(page, "/augment/1/padding")).to_have_value("4")

    def test_an_uploaded_dataset_can_be_chosen(self, page: Page, service: Service) -> None:
        uploaded = service.http.post("/v1/datasets", files={"file": ("tiny.npz", npz(**small()))}).json()
        open_form(page)
        field(page, "/dataset").select_option(json.dumps(uploaded["id"]))
        expect(page.locator("[data-figure=steps]")).to_have_text("5")  # 36 of 40 images, 64 per batch, 5 epochs
        assert body_of(page) == {"dataset": uploaded["id"]}


class TestChecks:
    def test_each_error_is_shown_at_its_field_while_typing(self, page: Page, complaints, axe, shot) -> None:
        complaints.expect("422")
        open_form(page)
        field(page, "/lr").fill("-1")
        field(page, "/architecture/hidden").fill("30, x")
        field(page, "/epochs").fill("many")
        expect(page.locator("#verdict")).to_have_text("3 fields are invalid")
        expect(error_of(page, "/lr")).to_have_text("must be greater than 0, got -1")
        expect(error_of(page, "/architecture/hidden")).to_contain_text('got "x"')
        expect(error_of(page, "/epochs")).to_contain_text('got "many"')
        expect(field(page, "/lr")).to_have_attribute("aria-invalid", "true")
        axe(page)
        shot(page, "submit-wrong")
        for pointer, value in (("/lr", "0.5"), ("/architecture/hidden", "40"), ("/epochs", "")):
            field(page, pointer).fill(value)
        expect(page.locator("#verdict")).to_have_text(READY)
        expect(page.locator("[aria-invalid]")).to_have_count(0)
        assert body_of(page) == {"lr": 0.5, "architecture": {"type": "mlp", "hidden": [40]}}

    def test_an_error_in_a_folded_group_unfolds_it(self, page: Page, complaints) -> None:
        complaints.expect("422")
        open_form(page, preset="article/manual-linear-continued")
        expect(page.locator("#verdict")).to_have_text("1 field is invalid")
        expect(error_of(page, "/init_from")).to_contain_text("this preset continues article/manual-linear")

    def test_a_repeated_label_is_an_error_and_not_sent(self, page: Page) -> None:
        open_form(page)
        for value in ("a", "b"):
            page.get_by_role("button", name="Add one").last.click()
            page.get_by_label("Key", exact=True).last.fill("team")
            page.get_by_label("Value", exact=True).last.fill(value)
        expect(page.locator("#verdict")).to_have_text("1 field is invalid")
        page.get_by_role("button", name="Submit").click()
        expect(page.locator(".pair .error")).to_have_text("is given twice")
        expect(page).to_have_url("/submit")

    def test_an_outdated_check_is_aborted(self, page: Page) -> None:
        held: list[Route] = []
        page.route("**/v1/jobs?dry_run=true", lambda route: route.continue_() if held else held.append(route))
        with page.expect_request("**/v1/jobs?dry_run=true") as first:
            page.goto("/submit")
        with page.expect_event("requestfailed", lambda request: request == first.value):
            field(page, "/architecture").select_option("linear")
        expect(page.locator("[data-figure=parameters]")).to_have_text("650")

    def test_the_figures_are_those_of_the_service(self, page: Page, service: Service) -> None:
        open_form(page)
        said = service.http.post("/v1/jobs?dry_run=true", json={}).json()
        expect(page.locator("[data-figure=parameters]")).to_have_text(f"{said['parameters']:,}".replace(",", "\u2009"))
        expect(page.locator("[data-figure=basis]")).to_contain_text("memory: weights")


class TestBeginnings:
    def test_a_preset_fills_the_form_and_shows_the_articles_figures(self, page: Page) -> None:
        open_form(page)
        page.get_by_text("Presets: the article's experiments").click()
        expect(page.get_by_role("row", name="article/autograd-linear")).to_contain_text("0.3074 → 0.3113")
        page.get_by_role("link", name="article/two-layer").click()
        expect(field(page, "/lr")).to_have_value("0.001")
        expect(field(page, "/loss/reduction")).to_have_value('"sum"')
        assert body_of(page) == {"preset": "article/two-layer"}
        field(page, "/lr").fill("0.1")  # the default of a spec without a preset
        assert body_of(page) == {"preset": "article/two-layer", "lr": 0.1}

    def test_another_jobs_spec_is_copied_completely(self, page: Page, service: Service) -> None:
        spec = {
            "architecture": {"type": "mlp", "hidden": [8, 4], "activation": "tanh"},
            "augment": ["flip", {"type": "shift", "pixels": 1}],
            "optimizer": {"type": "sgd", "momentum": 0.5, "nesterov": True},
            "early_stopping": {"metric": "val_accuracy"},
            "labels": {"of": "the first"},
            "epochs": 1,
            "seed": 2**53 - 1,
        }
        first = service.http.post("/v1/jobs", json=spec).json()
        open_form(page, **{"from": first["id"]})
        expect(page.get_by_role("link", name=first["name"])).to_have_attribute("href", f"/jobs/{first['id']}")
        assert body_of(page) == spec
        assert submit(page, service)["spec"] == first["spec"]

    def test_a_spec_can_be_given_in_the_address(self, page: Page) -> None:
        open_form(page, spec=json.dumps({"dataset": "digits", "architecture": "cnn", "name": "sent along"}))
        expect(field(page, "/architecture")).to_have_value('"cnn"')
        assert body_of(page) == {"architecture": "cnn", "name": "sent along"}

    def test_an_invalid_initial_spec_is_refused_with_the_reason(self, page: Page, service: Service, complaints):
        complaints.expect("422")
        complaints.expect("404")
        page.goto("/submit?spec=" + quote('{"lr": -1}'))
        expect(page.locator("main")).to_contain_text("must be greater than 0, got -1")
        page.goto("/submit?preset=article/none")
        expect(page.locator("main")).to_contain_text("preset 'article/none' not found")
        check = service.http.post("/v1/gradient-checks", json={"batches": 1, "samples": 1}).json()
        page.goto(f"/submit?from={check['id']}")
        expect(page.locator("main")).to_contain_text("this form submits trainings only")


class TestSending:
    def test_a_double_click_submits_one_job(self, page: Page, service: Service) -> None:
        open_form(page, spec=json.dumps({"epochs": 1, "labels": {"pressed": "twice"}}))
        page.get_by_role("button", name="Submit").dblclick()
        page.wait_for_url(JOB)
        assert len(jobs_labelled(service, pressed="twice")) == 1

    def test_a_retry_after_a_lost_response_is_the_same_job(self, page: Page, service: Service, complaints) -> None:
        complaints.expect("net::ERR")
        lost = []

        def lose_the_first(route: Route) -> None:
            answer = route.fetch()
            if lost:
                return route.fulfill(response=answer)
            lost.append(answer)
            return route.abort("connectionreset")

        open_form(page, spec=json.dumps({"epochs": 1, "labels": {"answer": "lost"}}))
        page.route("**/v1/jobs", lose_the_first)
        page.get_by_role("button", name="Submit").click()
        expect(page.locator(".summary")).to_contain_text("does not answer")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url(JOB)
        (job,) = jobs_labelled(service, answer="lost")
        assert page.url.endswith(job["id"])

    def test_a_refused_submission_is_shown_and_the_invalid_field_has_the_focus(self, page: Page, complaints) -> None:
        complaints.expect("422")
        open_form(page)
        field(page, "/batch_size").fill("0")
        page.keyboard.press("Enter")
        expect(error_of(page, "/batch_size")).to_contain_text("greater than or equal to 1")
        expect(field(page, "/batch_size")).to_be_focused()
        expect(page.get_by_role("button", name="Submit")).to_be_enabled()

    def test_a_check_is_retried_until_the_service_answers(self, page: Page, complaints) -> None:
        complaints.expect("net::ERR_CONNECTION_REFUSED")
        page.route("**/v1/jobs?dry_run=true", lambda route: route.abort("connectionrefused"))
        page.goto("/submit")
        expect(page.locator("form").get_by_role("alert").get_by_text("does not answer")).to_be_visible()
        page.unroute_all()
        expect(page.locator("#verdict")).to_have_text("Ready to submit")
        expect(page.locator("form").get_by_role("alert").get_by_text("does not answer")).to_have_count(0)

    def test_the_keyboard_alone_submits_a_job(self, page: Page, service: Service) -> None:
        page.goto("/submit")
        tab_to(page, "f-epochs")
        page.keyboard.type("1")
        tab_to(page, "f-optimizer")
        page.keyboard.press("ArrowDown")
        tab_to(page, "f-name")
        page.keyboard.type("by keys")
        tab_to(page, "send")
        page.keyboard.press("Enter")
        page.wait_for_url(JOB)
        job = service.http.get("/v1" + page.url.removeprefix(str(service.http.base_url).rstrip("/"))).json()
        assert (job["name"], job["spec"]["epochs"], job["spec"]["optimizer"]["type"]) == ("by keys", 1, "adam")


def sign_in(page: Page, service: Service, scope: Scope) -> str:
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")
    token = token_for(database, "dora", scope)
    database.close()
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": str(service.http.base_url)}])
    return token


def tab_to(page: Page, id: str) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == id:
            return
    raise AssertionError(f"the Tab key does not reach {id}")


class TestCode:
    SPEC = {  # noqa: RUF012
        "architecture": {"type": "mlp", "hidden": [5], "batch_norm": True},
        "labels": {"it's": 'a "quote"', "ünï": "cödé ☃"},
        "checkpoint": {"every_seconds": None},
        "epochs": 1,
        "seed": 3,
    }

    def shown(self, page: Page, form: str) -> str:
        open_form(page, spec=json.dumps(self.SPEC))
        page.get_by_role("button", name=form).click()
        expect(page.get_by_role("button", name=form)).to_have_attribute("aria-pressed", "true")
        return page.locator("#code").text_content() or ""

    def test_the_curl_command_submits_this_job(self, page: Page) -> None:
        if shutil.which("curl") is None:
            part_missing("curl is not on the PATH")
        done = subprocess.run(["sh", "-c", self.shown(page, "curl")], capture_output=True, check=True)
        assert json.loads(done.stdout)["spec"] == JobSpec.parse(self.SPEC).to_json()

    def test_the_curl_command_sends_a_token_for_signed_in_users(self, page: Page, service: Service) -> None:
        token = sign_in(page, service, "submit")
        line = self.shown(page, "curl")
        assert token not in line
        done = subprocess.run(
            ["sh", "-c", line], env={**os.environ, "GRADQ_TOKEN": token}, capture_output=True, check=True
        )
        assert json.loads(done.stdout)["owner"] == "dora"

    def test_the_python_code_submits_this_job_and_waits_for_it(self, page: Page, service: Service) -> None:
        code = self.shown(page, "Python") + "\nprint(job.id)\n"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        job = service.http.get(f"/v1/jobs/{done.stdout.split()[-1]}").json()
        assert (job["status"], job["spec"]) == ("succeeded", JobSpec.parse(self.SPEC).to_json())

    def test_the_code_is_copied(self, page: Page) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        text = self.shown(page, "Python")
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_text("Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == text

    def test_without_a_clipboard_the_text_is_selected(self, page: Page) -> None:
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        text = self.shown(page, "curl")
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_text("The text is selected")).to_be_visible()
        assert page.evaluate("String(getSelection())") == text
