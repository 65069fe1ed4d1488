"""What holds on every page: no sideways scroll at any width, cut tables that show it, a notice without an answer of the
service, few streams for all pages of a browser, and a zoom and a search that are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from playwright.sync_api import BrowserContext, Page, Request, Route, expect
from support.browser import Complaints
from support.images import npz, small
from support.service import Service
from support.waiting import wait_for

from api.services import Services
from shared.artifacts import StoredFile, artifact_key
from shared.config import Settings
from shared.jobs import queue
from shared.jobs.joblog import Line
from shared.jobs.queue import Lease
from shared.jobs.states import JobState

WIDTHS = (360, 390, 480, 641, 700, 761, 800, 901, 961, 1024, 1101, 1280, 1281, 1440, 1920, 2560)
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = """[...document.querySelectorAll(".scroll")].filter((e) => e.checkVisibility())
    .map((e) => [e.scrollWidth > e.clientWidth + 1, e.hasAttribute("data-more-right")])"""
WIDEST = """[...document.querySelectorAll("body *")]
    .filter((e) => !e.closest(".scroll, .log") && e.getBoundingClientRect().right > innerWidth)
    .map((e) => `${e.tagName} ${e.id} ${e.className}`)"""
LABELS = {
    "test": "everywhere",
    "a-key-that-is-quite-long-for-a-label": "and-a-value-without-any-place-to-break-" + "x" * 60,
}
STREAM = "text/event-stream"


def long(*values: str) -> ParameterSet:
    return pytest.param(*values, marks=pytest.mark.long)


CLASSES = [f"class-with-a-long-name-{number}-{'y' * 40}" for number in range(4)]
MATRIX = {
    "classes": CLASSES,
    "matrix": [[5 if row == column else 1 for column in range(4)] for row in range(4)],
    **{name: [0.5] * 4 for name in ("precision", "recall", "f1")},
    "support": [8] * 4,
}
RESULT = {"train_loss": 0.25, "val_accuracy": 0.5, "test_accuracy": 0.5, "device": "cpu", "parameters": 7}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API without workers: the tests write what a worker would."""
    service = Service(tmp_path_factory.mktemp("everywhere"))
    service.migrate()
    service.start_broker()
    service.start_api()
    yield service
    service.close()


class Hands:
    """What a worker does to a job of the service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.services = Services.from_settings(Settings(state_dir=service.state))

    def start(self, **spec: Any) -> tuple[dict[str, Any], Lease]:
        job = self.service.submit(**spec)
        with self.services.database.write() as session:
            claimed = queue.claim(session, "w1", "cpu", ["auto", "cpu"], 600)
            assert claimed is not None
            assert claimed.id == job["id"]
            lease = queue.lease_of(claimed)
            progress = {"epoch": 3, "epochs": 3, "step": 60, "total_steps": 60, "examples_per_second": 1000.0}
            queue.renew(session, lease, 600, progress)
            points = [
                (series, step, {"step": step, "epoch": step // 20, "series": series, "metrics": {name: 1 / step}})
                for name, series in (("train_loss", "epoch"), ("val_accuracy", "val"))
                for step in (20, 40, 60)
            ]
            queue.append(session, lease, [Line("metric", "", data, series=of, step=at) for of, at, data in points])
        return job, lease

    def end(self, lease: Lease, state: JobState = JobState.SUCCEEDED, **more: Any) -> None:
        with self.services.database.write() as session:
            queue.finish(session, lease, state, f"job {state}", **more)

    def store(self, lease: Lease, name: str, content: str) -> StoredFile:
        path = self.service.folder / name
        path.write_text(content)
        return self.services.store.put(artifact_key(lease.job_id, lease.attempt, name), path)


@pytest.fixture(scope="module")
def hands(service: Service) -> Iterator[Hands]:
    hands = Hands(service)
    yield hands
    hands.services.database.close()


@pytest.fixture(scope="module")
def job(service: Service, hands: Hands) -> dict[str, Any]:
    """A finished job with the longest names: of itself, of its labels, of its uploaded dataset and its classes."""
    file = {"file": ("long.npz", npz(**small(), classes=CLASSES))}
    dataset = service.http.post("/v1/datasets", files=file, data={"name": "dataset-of-images-" + "z" * 100}).json()
    assert "id" in dataset, dataset
    jobs = []
    for number in range(2):
        name = f"{number}-" + "w" * 120
        found, lease = hands.start(
            name=name, dataset=dataset["id"], architecture="mlp", epochs=3, labels=LABELS, seed=1
        )
        hands.end(lease, result=RESULT, files=[hands.store(lease, "confusion_matrix.json", json.dumps(MATRIX))])
        jobs.append(found)
    return {**jobs[0], "other": jobs[1]["id"]}


@pytest.mark.parametrize(
    ("path", "ready"),
    [
        ("/?label.test=everywhere", "#rows tr"),
        long("/jobs/{id}", ".matrix"),
        long("/compare?job={id}&job={other}", "#table tbody tr"),
        long("/draw?job={id}", "#bars tr"),
        long("/submit?from={id}", "#verdict.good"),
        long("/learn", "#ask"),
        long("/system", "#datasets tbody tr"),
        long("/nothing-here", "h1"),
    ],
)
def test_no_page_scrolls_sideways_and_cut_tables_show_it(
    page: Page, complaints: Complaints, job: dict[str, Any], path: str, ready: str
) -> None:
    complaints.expect("404")
    page.goto(path.format(**job))
    expect(page.locator(ready).first).to_be_visible()
    for details in page.locator("details:visible > summary").all():
        details.click()
    too_wide = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        wait_for(lambda: all(cut == hint for cut, hint in page.evaluate(CUT)), 10, f"hints at {width} px, {path}")
        if (by := page.evaluate(SIDEWAYS)) > 0:
            too_wide[width] = (by, page.evaluate(WIDEST))
    assert too_wide == {}


def test_a_table_shows_where_it_continues_on_either_side(page: Page, job: dict[str, Any]) -> None:
    page.set_viewport_size({"width": 480, "height": 800})
    page.goto(f"/compare?job={job['id']}&job={job['other']}")
    table = page.locator(".scroll:has(#table)")
    expect(table).to_have_attribute("data-more-right", "")
    expect(table).not_to_have_attribute("data-more-left", "")
    assert "gradient" in table.evaluate("e => getComputedStyle(e).maskImage")
    table.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
    expect(table).to_have_attribute("data-more-left", "")
    expect(table).not_to_have_attribute("data-more-right", "")


@pytest.mark.long
def test_the_comparison_names_an_uploaded_dataset(page: Page, job: dict[str, Any]) -> None:
    page.goto(f"/compare?job={job['id']}&job={job['other']}")
    expect(page.locator("#same dl")).to_contain_text("dataset-of-images-zzz")
    expect(page.locator("#same dl")).not_to_contain_text(job["spec"]["dataset"])


@pytest.mark.parametrize("path", ["/submit", *map(long, ("/draw", "/learn", "/compare", "/jobs/{id}", "/", "/system"))])
def test_every_page_shows_that_the_service_is_away_until_it_is_back(
    page: Page, complaints: Complaints, job: dict[str, Any], path: str
) -> None:
    complaints.expect("net::ERR_CONNECTION_REFUSED")
    complaints.expect("net::ERR_FAILED")
    page.clock.install()
    page.goto(path.format(**job))
    away = page.locator("#away")
    expect(away).to_be_hidden()
    page.route("**/*", lambda route: route.abort("connectionrefused"))
    page.clock.run_for(16_000)
    expect(away).to_be_visible()
    expect(away).to_contain_text("The service does not answer")
    top, first = away.bounding_box(), page.locator("h1").first.bounding_box()
    assert top
    assert first
    assert top["y"] < first["y"]
    page.unroute_all()
    page.clock.run_for(16_000)
    expect(away).to_be_hidden()


@pytest.mark.long
@pytest.mark.parametrize(("status", "body"), [(502, "<h1>Bad Gateway</h1>"), (504, ""), (503, "<p>no upstream</p>")])
def test_what_a_proxy_answers_for_it_counts_as_away(page: Page, complaints: Complaints, status: int, body: str) -> None:
    complaints.expect(str(status))
    page.clock.install()
    page.goto("/system")
    page.route("**/*", lambda route: route.fulfill(status=status, content_type="text/html", body=body))
    page.clock.run_for(16_000)
    expect(page.locator("#away")).to_contain_text(re.compile("The service (does not answer|answered 50)"))


@pytest.mark.long
class TestStreams:
    def test_of_many_open_pages_three_hold_a_stream_and_all_are_up_to_date(
        self, context: BrowserContext, complaints: Complaints, hands: Hands
    ) -> None:
        """A browser has six connections per host: with six streams no further page would load."""
        running, lease = hands.start(name="followed", labels={"test": "streams"})
        held: set[Request] = set()

        def began(route: Route) -> None:
            if route.request.headers.get("accept") == STREAM:
                held.add(route.request)
            route.fallback()

        context.route("**/*", began)
        context.on("requestfailed", lambda request: held.discard(request))
        pages = [context.new_page() for _ in range(8)]
        for page in pages:
            page.goto("/?label.test=streams")
            expect(page.locator(f"#{running['id']} .status")).to_have_text("running")
            expect(page.locator("#live")).to_contain_text("live")
        assert len(held) == 3
        kinds = [page.locator("#live").text_content() or "" for page in pages]
        assert sorted(kinds) == ["live"] * 3 + ["live, every few seconds"] * 5
        hands.end(lease)
        for page in pages:
            expect(page.locator(f"#{running['id']} .status")).to_have_text("succeeded")
        for page in pages:
            page.close()


class TestKept:
    def test_a_zoom_survives_points_that_are_added(self, page: Page) -> None:
        page.goto("/compare")
        page.evaluate("""async () => {
            const place = document.createElement("div");
            place.className = "chart";
            document.getElementById("main").append(place);
            const source = document.querySelector("script[type=module]").src;
            const { Curve } = await import(source.replace("shell.js", "curve.js"));
            window.curve = new Curve(place, { name: "a test", x: "step", y: "loss" });
            window.points = (n) => ({ name: "loss", x: [...Array(n).keys()], y: [...Array(n).keys()] });
            await window.curve.show([window.points(10)]);
        }""")
        box = page.locator(".nsewdrag").bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        ranges = (
            "['xaxis', 'yaxis'].map((axis) => window.curve.place._fullLayout[axis].range.map((at) => at.toFixed(3)))"
        )
        wait_for(lambda: page.evaluate("window.curve.place._fullLayout.xaxis.range[1] < 8"), 10, "the zoom")
        zoomed = page.evaluate(ranges)
        page.evaluate("window.curve.show([window.points(50)])")
        assert page.evaluate(ranges) == zoomed
        page.evaluate("window.curve.scale({ log: true })")  # another axis shows everything again
        assert page.evaluate(ranges) != zoomed

    def test_back_restores_the_search(self, page: Page, job: dict[str, Any]) -> None:
        page.goto("/?label.test=everywhere")
        field = page.get_by_role("searchbox")
        for text in ("www", "nothing of that name"):
            field.fill(text)
            field.press("Enter")
            page.wait_for_url(lambda url, text=text: text.split()[0] in url)
        expect(page.locator("#none")).to_be_visible()
        page.go_back()  # the field has the focus
        expect(page.locator("#rows tr")).to_have_count(2)
        expect(field).to_have_value("*www*")
        page.go_back()
        expect(field).to_have_value("")
        page.go_forward()
        expect(field).to_have_value("*www*")


@pytest.mark.long
def test_a_job_without_points_has_no_empty_charts(page: Page, service: Service) -> None:
    waits = service.submit(name="never ran")
    service.cancel(waits["id"])
    page.goto(f"/jobs/{waits['id']}")
    expect(page.locator("#curves-state")).to_contain_text("No points: the job ended before the first was written.")
    expect(page.locator(".charts")).to_be_hidden()
    expect(page.locator(".modebar")).to_have_count(0)


@pytest.mark.long
def test_a_chart_of_a_curve_without_points_is_a_sentence(page: Page, job: dict[str, Any]) -> None:
    page.route(
        "**/metrics",
        lambda route: route.fulfill(json={"object": "metrics", "series": {"train_loss": [[1, 1, 0.5], [2, 2, 0.25]]}}),
    )
    page.goto(f"/jobs/{job['id']}")
    expect(page.locator("#loss-chart .scatterlayer .trace")).to_have_count(1)
    expect(page.locator("#right-chart")).to_be_hidden()
    expect(page.locator(".charts")).to_contain_text("This job has no points of this curve.")
    expect(page.locator("#curves-state")).to_be_empty()


@pytest.mark.long
def test_all_points_are_saved_as_csv(page: Page, job: dict[str, Any]) -> None:
    page.goto(f"/jobs/{job['id']}")
    page.get_by_text("The points as numbers").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV, all points").click()
    assert download.value.suggested_filename == "metrics.csv"
    assert "train_loss" in download.value.path().read_text()


@pytest.mark.long
def test_lines_of_errors_in_the_log_look_like_its_other_lines(page: Page, hands: Hands) -> None:
    """Their class is not that of the messages of forms."""
    bad, lease = hands.start(name="fails")
    with hands.services.database.write() as session:
        queue.append(session, lease, [Line("log", "it broke", {}, level="error")])
    hands.end(lease, JobState.FAILED)
    page.goto(f"/jobs/{bad['id']}")
    line = page.locator("#lines li.level-error").first
    expect(line).to_be_visible()
    expect(page.locator("#lines li.error")).to_have_count(0)
    look = "e => [getComputedStyle(e).fontSize, getComputedStyle(e).marginTop]"
    assert line.evaluate(look) == page.locator("#lines li.level-info").first.evaluate(look)
