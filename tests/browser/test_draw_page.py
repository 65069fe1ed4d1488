"""The Draw page: drawings are converted to the images of the dataset, and classified while the user draws."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from support.service import Service

Stroke = list[tuple[float, float]]  # points, from 0 to 1 of the pad

NOTHING = "Nothing is drawn yet"
QUICK: dict[str, Any] = {"optimizer": "adam", "lr": 0.002, "seed": 1}


def arc(x: float, y: float, radius: float, begin: int, end: int) -> Stroke:
    angles = [math.radians(begin + (end - begin) * step / 14) for step in range(15)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


THREE: list[Stroke] = [arc(0.47, 0.35, 0.15, -150, 90) + arc(0.47, 0.66, 0.17, -90, 150)]
ONE: list[Stroke] = [[(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)]]


@pytest.fixture(scope="module")
def reads_digits(service: Service) -> dict[str, Any]:
    return trained(service, dataset="digits", architecture={"type": "mlp", "hidden": [64]}, epochs=40)


@pytest.fixture(scope="module")
def reads_mnist(service: Service, mnist_dir: Path) -> dict[str, Any]:
    return trained(service, dataset="mnist", architecture={"type": "mlp", "hidden": [32]}, epochs=1)


def trained(service: Service, **spec: Any) -> dict[str, Any]:
    job = service.wait(service.submit(**QUICK, **spec)["id"], 150)
    assert job["status"] == "succeeded", job["status_reason"]
    return job


def draw(page: Page, strokes: list[Stroke], lift: bool = True) -> None:
    box = page.locator("#pad").bounding_box()
    assert box is not None
    for stroke in strokes:
        (first, *rest) = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*first)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point)
        if lift:
            page.mouse.up()


def digitised(page: Page, strokes: list[Stroke], manner: str, side: int, white: int) -> list[list[int]]:
    """Rows of pixels that js/digitise.js makes of strokes."""
    rows: list[list[int]] = page.evaluate(
        """async ([strokes, by]) => {
            const source = document.querySelector("script[src*='js/draw.js']").src;
            return (await import(source.replace("draw.js", "digitise.js"))).digitise(strokes, by);
        }""",
        [strokes, {"manner": manner, "height": side, "width": side, "white": white}],
    )
    return rows


class TestReading:
    def test_a_drawn_3_is_classified_by_a_model_of_mnist(self, page: Page, reads_mnist, axe, shot) -> None:
        page.goto(f"/draw?job={reads_mnist['id']}")
        draw(page, THREE)
        expect(page.locator("#said b")).to_have_text("3")
        expect(page.locator("#heard")).to_have_text(re.compile(r"^3 \d+\.\d"))
        axe(page)
        shot(page, "draw")

    def test_a_drawn_3_is_classified_by_a_model_of_digits(self, page: Page, reads_digits) -> None:
        page.goto(f"/draw?job={reads_digits['id']}")
        expect(page.locator("#said")).to_have_text(NOTHING)
        draw(page, THREE)
        expect(page.locator("#said b")).to_have_text("3")
        expect(page.locator("[data-first] th")).to_have_text("3")
        expect(page.locator("#bars tr")).to_have_count(10)

    def test_a_finger_draws_and_does_not_scroll_the_page(self, page: Page, reads_digits) -> None:
        page.goto(f"/draw?job={reads_digits['id']}")
        page.set_viewport_size({"width": 390, "height": 400})
        page.locator("#pad").scroll_into_view_if_needed()
        box, before = page.locator("#pad").bounding_box(), page.evaluate("scrollY")
        assert box is not None
        finger = page.context.new_cdp_session(page)
        for kind, share in (("touchStart", 0.2), ("touchMove", 0.35), ("touchMove", 0.5), ("touchEnd", None)):
            points = (
                [] if share is None else [{"x": box["x"] + box["width"] / 2, "y": box["y"] + share * box["height"]}]
            )
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        expect(page.locator("#said b")).to_have_text("1")
        assert page.evaluate("scrollY") == before

    def test_strokes_are_undone_or_cleared_also_by_keys(self, page: Page, reads_digits) -> None:
        page.goto(f"/draw?job={reads_digits['id']}")
        undo, clear = page.get_by_role("button", name="Undo"), page.get_by_role("button", name="Clear")
        expect(undo).to_be_disabled()
        draw(page, THREE + ONE)
        undo.click()
        expect(page.locator("#said b")).to_have_text("3")
        page.keyboard.press("u")
        expect(page.locator("#said")).to_have_text(NOTHING)
        expect(clear).to_be_disabled()
        draw(page, THREE + ONE)
        clear.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#heard")).to_have_text(NOTHING)
        draw(page, ONE)
        page.keyboard.press("c")
        expect(page.locator("#said")).to_have_text(NOTHING)

    def test_one_call_is_made_at_a_time_and_a_stale_answer_is_dropped(self, page: Page, reads_digits) -> None:
        held: list[Route] = []
        page.route("**/predict", lambda route: held.append(route))
        page.goto(f"/draw?job={reads_digits['id']}")
        with page.expect_request("**/predict"):
            draw(page, THREE)
        page.keyboard.press("c")
        assert len(held) == 1  # one call for all points of the stroke
        with page.expect_response("**/predict"):
            held[0].continue_()
        expect(page.locator("#said")).to_have_text(NOTHING)
        with page.expect_request("**/predict"):
            draw(page, THREE)
        page.keyboard.press("c")
        draw(page, ONE)
        with page.expect_request("**/predict"):  # for the new drawing, after the response for the old one
            held[1].continue_()
        expect(page.locator("#said")).to_have_text(NOTHING)
        held[2].continue_()
        expect(page.locator("#said b")).to_have_text("1")

    def test_a_rate_limited_call_is_retried(self, page: Page, reads_digits, complaints) -> None:
        complaints.expect("429")
        page.goto(f"/draw?job={reads_digits['id']}")
        problem = {"title": "Too many", "status": 429, "code": "rate_limited", "detail": "Too many calls"}
        busy: list[Route] = []

        def refuse_the_first(route: Route) -> None:
            if busy:
                return route.continue_()
            busy.append(route)
            return route.fulfill(status=429, json=problem, headers={"Retry-After": "1"})

        page.route("**/predict", refuse_the_first)
        draw(page, [[(0.5, 0.2)]])
        expect(page.locator("#said b")).to_have_text(re.compile(r"\d"))
        expect(page.locator("#wrong")).to_be_empty()

    def test_what_the_service_refuses_is_said(self, page: Page, reads_digits, complaints) -> None:
        complaints.expect("503")
        page.goto(f"/draw?job={reads_digits['id']}")
        problem = {"title": "Not now", "status": 503, "code": "database_away", "detail": "The database is away"}
        page.route("**/predict", lambda route: route.fulfill(status=503, json=problem))
        draw(page, ONE)
        expect(page.locator("#wrong")).to_have_text("The database is away")


class TestReaders:
    def test_another_job_is_chosen_and_is_in_the_address(self, page: Page, service: Service, reads_digits) -> None:
        other = trained(service, dataset="digits", architecture="linear", epochs=1)
        page.goto(f"/draw?job={other['id']}")
        expect(page.get_by_label("Model", exact=True)).to_have_value(other["id"])
        page.get_by_label("Model", exact=True).select_option(reads_digits["id"])
        expect(page).to_have_url(f"/draw?job={reads_digits['id']}")
        expect(page.get_by_role("link", name="About this job")).to_have_attribute("href", f"/jobs/{reads_digits['id']}")
        page.reload()
        expect(page.get_by_label("Model", exact=True)).to_have_value(reads_digits["id"])

    def test_the_page_says_why_a_job_cannot_classify(self, page: Page, service: Service, reads_digits) -> None:
        job = service.submit(epochs=10_000, batch_size=1)
        service.cancel(job["id"])
        service.wait(job["id"])
        page.goto(f"/draw?job={job['id']}")
        expect(page.locator("main")).to_contain_text("is cancelled; its model is available once it has succeeded")
        # the one that is preselected may be another test's, without a model
        page.get_by_label("Model", exact=True).select_option(reads_digits["id"])
        draw(page, ONE)
        expect(page.locator("#said b")).to_have_text(re.compile(r"\d"))


class TestPixels:
    def test_like_mnist_the_box_is_20_pixels_and_the_centre_of_mass_in_the_middle(
        self, page: Page, reads_digits
    ) -> None:
        page.goto("/draw")
        rows = digitised(page, THREE, "mnist", 28, 255)
        inked = [y for y, row in enumerate(rows) if any(row)]
        assert 20 <= inked[-1] - inked[0] + 1 <= 21
        mass = sum(map(sum, rows))
        assert sum(y * sum(row) for y, row in enumerate(rows)) / mass == pytest.approx(14, abs=0.1)
        assert sum(x * value for row in rows for x, value in enumerate(row)) / mass == pytest.approx(14, abs=0.1)
        assert max(map(max, rows)) == 255
        assert 60 < mass / 255 < 150  # the mean of MNIST's 3s: 112

    @pytest.mark.parametrize(("manner", "side", "levels"), [("mnist", 28, 255), ("digits", 8, 16)])
    def test_greys_are_kept_where_white_is_1(self, page: Page, reads_digits, manner, side, levels) -> None:
        page.goto("/draw")
        fractions = digitised(page, THREE, manner, side, 1)
        greys = {value for row in fractions for value in row if 0 < value < 1}
        assert len(greys) >= 5
        whole = digitised(page, THREE, manner, side, levels)
        assert [[round(value * levels) for value in row] for row in fractions] == whole

    def test_a_drawing_is_sent_with_its_white(self, page: Page, reads_digits) -> None:
        page.goto(f"/draw?job={reads_digits['id']}")
        with page.expect_request("**/predict") as asked:
            draw(page, THREE)
        body = asked.value.post_data_json
        assert body["white"] == 1
        assert 0 < max(value for row in body["images"][0] for value in row) <= 1

    def test_position_and_size_of_the_drawing_do_not_matter(self, page: Page, reads_digits) -> None:
        page.goto("/draw")
        small = [[(0.1 + x / 4, 0.6 + y / 4) for x, y in stroke] for stroke in THREE]
        for manner, side, white in (("mnist", 28, 255), ("digits", 8, 16)):
            large, same = (digitised(page, strokes, manner, side, white) for strokes in (THREE, small))
            apart = [
                abs(a - b) for one, other in zip(large, same, strict=True) for a, b in zip(one, other, strict=True)
            ]
            assert max(apart) <= white / 16

    @pytest.mark.parametrize(("strokes", "widest"), [(THREE, 6), (ONE, 4)])
    def test_digits_of_8_by_8_fill_the_height_and_have_the_usual_ink(self, page: Page, reads_digits, strokes, widest):
        page.goto("/draw")
        rows = digitised(page, strokes, "digits", 8, 16)
        assert all(any(row) for row in rows)
        assert sum(map(sum, rows)) == pytest.approx(313, rel=0.15)
        assert all(0 <= value <= 16 for row in rows for value in row)
        inked = [x for x in range(8) if any(row[x] for row in rows)]
        assert len(inked) <= widest

    def test_a_dot_stays_a_dot(self, page: Page, reads_digits) -> None:
        page.goto("/draw")
        for manner, side, white in (("mnist", 28, 255), ("digits", 8, 16)):
            rows = digitised(page, [[(0.3, 0.3)]], manner, side, white)
            assert 0 < sum(map(sum, rows)) / white < side**2 / 2
