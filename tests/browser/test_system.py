"""The System page: workers, queues, datasets, and uploads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import Complaints
from support.images import folders, idx, npz, pixels, small, zipped
from support.service import Service
from support.waiting import wait_for

from shared import workers
from shared.db.database import Database
from shared.db.tables import Worker

TOLD_WORKER = "gpu-host-1"


def row(page: Page, table: str, text: str) -> Locator:
    return page.locator(f"#{table} tbody tr").filter(has_text=text)


class TestWhatRuns:
    def test_workers_jobs_and_queues_are_shown_and_updated(
        self, page: Page, service: Service, occupy, axe, shot
    ) -> None:
        page.goto("/system")
        worker = page.locator("#workers tbody tr")
        expect(worker).to_contain_text("2 of 2")
        expect(worker).to_contain_text("2 × cpu")
        jobs = [occupy(name=f"fills slot {i}") for i in range(2)]
        waiting = occupy(name="has to wait")
        expect(worker).to_contain_text("0 of 2")
        expect(worker.get_by_role("link", name="fills slot 1")).to_have_attribute("href", f"/jobs/{jobs[1]['id']}")
        expect(worker.locator(".runs").first).to_contain_text("for")
        expect(row(page, "queues", "auto")).to_contain_text("1 job: 0 of 2 slots free")
        axe(page)
        shot(page, "system")
        for job in (waiting, *jobs):
            service.cancel(job["id"])
        expect(worker).to_contain_text("2 of 2")
        expect(worker).to_contain_text("none")

    def test_version_and_readiness_of_the_service_are_shown(self, page: Page, service: Service) -> None:
        page.goto("/system")
        version = service.http.get("/v1/version").json()
        facts = page.locator(".facts")
        for text in (version["version"], version["python"], "databaseok", "brokerok", "readyyes"):
            expect(facts).to_contain_text(text)

    def test_a_hidden_page_does_not_poll_and_a_visible_one_polls_at_once(self, page: Page) -> None:
        page.goto("/system")
        expect(page.locator("#workers tbody tr")).to_have_count(1)
        page.clock.install()
        page.reload()
        expect(page.locator("#workers tbody tr")).to_have_count(1)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        turn = """hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
                              document.dispatchEvent(new Event('visibilitychange')); }"""
        page.evaluate(turn, True)
        page.clock.run_for(60_000)
        assert asked == []
        with page.expect_request("**/v1/workers"):
            page.evaluate(turn, False)


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without workers; a worker counts as alive for a minute after its heartbeat."""
    service = Service(tmp_path_factory.mktemp("lonely"), {"GRADQ_LEASE_SECONDS": "60"}).start(workers=0)
    yield service
    service.close()


@pytest.fixture
def lonely_page(browser: Browser, lonely: Service) -> Iterator[tuple[Page, Complaints]]:
    """Its browser's page, and what that complains about. What a test ends or writes of workers is undone."""
    complaints = Complaints(str(lonely.http.base_url))
    context = browser.new_context(base_url=str(lonely.http.base_url), permissions=["clipboard-read", "clipboard-write"])
    context.on("page", complaints.listen)
    yield context.new_page(), complaints
    context.close()
    make_lonely_again(lonely)
    complaints.check()


def make_lonely_again(service: Service) -> None:
    if service.broker is None or not service.broker.alive:
        service.start_broker()
    if not any(part.alive for part in service.parts if part.log.name == "api.log"):
        service.start_api()
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")
    with database.write() as session:
        workers.deregister(session, TOLD_WORKER)
    database.close()


def tell_of_a_worker(service: Service, **facts: Any) -> None:
    """Write the heartbeat of a worker with two GPUs."""
    gpus = [{"kind": "cuda", "name": f"cuda:{i} NVIDIA H100", "uuid": f"GPU-{i}"} for i in range(2)]
    memory = [{"device": "cpu", "used_bytes": 3_000_000_000, "total_bytes": 64_000_000_000}]
    memory += [{"device": gpu["name"], "used_bytes": 12_000_000_000, "total_bytes": 80_000_000_000} for gpu in gpus]
    devices = {"kinds": ["cpu", "cuda"], "slots": gpus, "memory": memory}
    told = {"host": "gpu-host", "pid": 4711, "slots": 2, "free_slots": 1, "draining": False, "version": "0.2.0"}
    worker = Worker(id=TOLD_WORKER, devices=devices, started_at=datetime.now(UTC), **{**told, **facts})
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")
    with database.write() as session:
        workers.heartbeat(session, worker)
    database.close()


class TestWhenPartsAreMissing:
    def test_without_a_worker_the_page_shows_commands(self, lonely_page, axe, shot) -> None:
        page, _ = lonely_page
        page.goto("/system")
        expect(page.locator("#nobody")).to_contain_text("No worker is running")
        page.locator("[data-copy='gradq doctor']").click()
        assert page.evaluate("navigator.clipboard.readText()") == "gradq doctor"
        axe(page)
        shot(page, "system-nobody")

    def test_a_draining_worker_with_gpus(self, lonely_page, lonely: Service, axe, shot) -> None:
        page, _ = lonely_page
        tell_of_a_worker(lonely)
        page.goto("/system")
        worker = page.locator("#workers tbody tr")
        expect(worker).to_contain_text("cuda:0 NVIDIA H100")
        expect(worker).to_contain_text("12.0 GB of 80.0 GB in use")
        expect(worker).to_contain_text("available")
        tell_of_a_worker(lonely, draining=True)
        expect(worker).to_contain_text("accepts no more jobs")
        axe(page)
        shot(page, "system-draining")

    def test_without_a_broker_the_service_is_still_ready(self, lonely_page, lonely: Service) -> None:
        page, _ = lonely_page
        page.goto("/system")
        expect(page.locator("#broker")).to_contain_text("ok")
        assert lonely.broker is not None
        lonely.broker.kill()
        expect(page.locator("#broker")).to_contain_text("away")
        expect(page.locator("#ready")).to_have_text("yes")

    def test_without_an_answer_the_last_known_state_stays_visible(self, lonely_page, lonely: Service) -> None:
        page, complaints = lonely_page
        complaints.expect("ERR_CONNECTION_REFUSED")
        page.goto("/system")
        expect(row(page, "datasets", "cifar10")).to_have_count(1)
        api = next(part for part in reversed(lonely.parts) if part.log.name == "api.log")
        api.stop()
        expect(page.locator("#away")).to_contain_text("The service does not answer")
        expect(row(page, "datasets", "cifar10")).to_have_count(1)


Offer = Callable[..., None]


@pytest.fixture
def offer(page: Page, tmp_path: Path) -> Offer:
    """offer(("name", bytes), …): choose these files in the form."""

    def choose(*files: tuple[str, bytes]) -> None:
        page.goto("/system")
        paths = [tmp_path / name for name, _ in files]
        for path, (_, content) in zip(paths, files, strict=True):
            path.write_bytes(content)
        page.locator("#chooser").set_input_files(paths)

    return choose


def send(page: Page) -> None:
    page.get_by_role("button", name="Upload", exact=True).click()


def error_of(page: Page, file: str) -> Locator:
    return page.locator("#files li").filter(has_text=file).locator(".error")


class TestUpload:
    def test_a_dataset_is_uploaded_shown_and_deleted_after_confirmation(
        self, page: Page, offer: Offer, axe, shot
    ) -> None:
        offer(("four.npz", npz(**small(40, classes=np.array(["ant", "bee", "cow", "dog"])))))
        page.get_by_label("Name").fill("farm")
        page.get_by_label("Test fraction").fill("0.25")
        axe(page)
        send(page)
        expect(page.locator(".toast")).to_contain_text("farm was stored")
        shown = row(page, "datasets", "farm")
        expect(shown).to_contain_text("6 × 6")
        expect(shown.locator("td.number").nth(1)).to_have_text("10")
        shown.locator("details summary").last.click()
        expect(shown.locator(".counts li")).to_have_count(4)
        expect(shown.locator(".counts li").nth(1)).to_have_text("bee: 7 training, 3 test")
        expect(shown).to_contain_text(re.compile(r"white 255; mean 0\.\d{3}, deviation 0\.\d{3} of pixels from 0 to 1"))
        sheet = shown.get_by_alt_text("The first training images of farm")
        expect(sheet).to_have_js_property("naturalWidth", 8 * (6 + 2) - 2)
        axe(page)
        shot(page, "system-dataset")
        expect(page.locator("#files li")).to_have_count(0)
        shown.get_by_role("button", name="Delete farm").click()
        expect(page.get_by_role("dialog")).to_contain_text("Delete farm?")
        page.get_by_role("dialog").get_by_role("button", name="Keep").click()
        expect(shown).to_have_count(1)
        shown.get_by_role("button", name="Delete farm").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(shown).to_have_count(0)

    def test_a_second_upload_of_the_same_dataset_is_reported(self, page: Page, offer: Offer) -> None:
        file = ("twice.npz", npz(**small(44)))  # content that no other test uploads to this service
        for said in ("twice was stored: ", "This dataset is stored already, as twice."):
            offer(file)
            send(page)
            expect(page.locator(".toast")).to_contain_text(said)

    def test_parts_of_an_idx_pair_are_guessed_from_file_names(self, page: Page, offer: Offer) -> None:
        offer(
            ("train-images-idx3-ubyte", idx(pixels(40, 6, 6))),
            ("train-labels-idx1-ubyte", idx((np.arange(40) % 4).astype(np.uint8))),
            ("t10k-images-idx3-ubyte", idx(pixels(12, 6, 6, seed=1))),
            ("t10k-labels-idx1-ubyte", idx((np.arange(12) % 4).astype(np.uint8))),
        )
        page.get_by_label("Name").fill("idx pair")
        send(page)
        expect(row(page, "datasets", "idx pair").locator("td.number").nth(1)).to_have_text("12")

    def test_a_zip_of_folders_is_dropped(self, page: Page, shot) -> None:
        page.goto("/system")
        content = list(zipped(folders(12, shape=(9, 7))))
        page.evaluate(
            """content => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(content)], "pets.zip"));
                const drop = document.getElementById("drop");
                for (const type of ["dragover", "drop"]) {
                    drop.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
                }
            }""",
            content,
        )
        expect(page.locator("#files")).to_contain_text("pets.zip")
        page.get_by_label("Image size in pixels").fill("8")
        shot(page, "system-upload")
        send(page)
        expect(row(page, "datasets", "pets")).to_contain_text("8 × 8")

    def test_an_error_in_a_file_is_shown_at_the_file(self, page: Page, offer: Offer, complaints, axe, shot) -> None:
        complaints.expect("422")
        offer(("odd.npz", npz(x=pixels(40, 6, 6), y=np.arange(40) % 4 * 2)))
        send(page)
        expect(error_of(page, "odd.npz")).to_contain_text("label")
        axe(page)
        shot(page, "system-refused")

    def test_an_error_in_an_option_is_shown_at_its_field(self, page: Page, offer: Offer, complaints) -> None:
        complaints.expect("422")
        offer(("fine.npz", npz(**small(48))))
        page.get_by_label("Test fraction").fill("2")
        send(page)
        expect(page.locator(".field:has(#test_fraction) .error")).to_contain_text("must be less than 1")
        expect(page.get_by_label("Test fraction")).to_be_focused()
        page.get_by_label("Test fraction").fill("")
        page.get_by_label("Image size in pixels").fill("8")
        send(page)
        expect(page.locator(".field:has(#size) .error")).not_to_be_empty()

    def test_a_file_that_is_too_large_is_refused_before_it_is_sent(self, page: Page, offer: Offer) -> None:
        offer(("fine.npz", npz(**small(52))))
        page.evaluate("document.getElementById('upload').dataset.limit = 100")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.method))
        send(page)
        expect(error_of(page, "fine.npz")).to_contain_text("GRADQ_MAX_UPLOAD_BYTES")
        assert "POST" not in asked

    def test_an_upload_shows_its_progress_and_can_be_cancelled(
        self, page: Page, offer: Offer, service: Service
    ) -> None:
        before = service.http.get("/v1/datasets").json()["data"]
        offer(("large.npz", npz(x=pixels(4000, 28, 28), y=np.arange(4000) % 10)))
        network = page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", slow)
        send(page)
        expect(page.locator("#bytes")).to_contain_text("of 3.2 MB")
        wait_for(lambda: page.evaluate("document.querySelector('#bar progress').value > 0"), 30, "sent bytes")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".toast")).to_contain_text("Cancelled")
        expect(page.locator("#files li")).to_have_count(1)
        expect(page.get_by_role("button", name="Upload", exact=True)).to_be_enabled()
        network.detach()
        assert service.http.get("/v1/datasets").json()["data"] == before

    def test_a_dataset_that_a_job_needs_is_not_deleted(self, page: Page, complaints, service: Service, occupy) -> None:
        complaints.expect("409")
        file = {"file": ("needed.npz", npz(**small(40, k=5)))}
        dataset = service.http.post("/v1/datasets", files=file).json()
        job = occupy(dataset=dataset["id"])
        page.goto("/system")
        page.get_by_role("button", name="Delete needed").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.locator(".toast.bad")).to_contain_text("needed was not deleted")
        expect(page.locator(".toast.bad")).to_contain_text(job["id"])
