"""The Learn page in a browser: requesting a walk, keyboard navigation between stages, errors at their fields."""

from __future__ import annotations

import re

from playwright.sync_api import Page, Route, expect
from support.service import Service

TWO_LAYER = [
    *("batch", "net", "hidden", "activation", "logits", "softmax", "losses", "loss"),
    *("dlogits", "dW2", "db2", "dactivation", "dhidden", "dW1", "db1"),
]


def walk(page: Page) -> None:
    """Click the button, and wait until the numbers are shown."""
    page.get_by_role("button", name="Walk").click()
    arrived(page)


def arrived(page: Page) -> None:
    """Wait until the numbers are shown and the scripts have registered their keys."""
    expect(page.locator(".learn")).to_be_visible()
    page.wait_for_load_state()


def stages(page: Page) -> list[str]:
    return page.locator(".stage").evaluate_all("all => all.map((stage) => stage.id)")


def file_of(page: Page, service: Service) -> dict:
    job_id = re.search(r"job_[0-9a-f]{32}", page.url)
    assert job_id
    return service.http.get(f"/v1/jobs/{job_id[0]}/artifacts/walk.json").json()


def shades_follow_numbers(page: Page) -> None:
    """The cell of the largest value has another background than one near 0; gradients at the true class are below 0."""
    ground = "cell => getComputedStyle(cell).backgroundColor"
    cells = page.locator("#logits .ways table").first.locator("tbody td")
    values = [float(title) for title in cells.evaluate_all("all => all.map((cell) => cell.title)")]
    extreme = max(values, key=abs)
    strongest = cells.nth(values.index(extreme))
    expect(strongest).to_have_class(re.compile(r"\bh9\b" if extreme > 0 else r"\bh-9\b"))
    weakest = cells.nth(values.index(min(values, key=abs)))
    assert strongest.evaluate(ground) != weakest.evaluate(ground)
    true = page.locator("#dlogits .ways table").first.locator("td.true")
    assert all(float(title) < 0 for title in true.evaluate_all("all => all.map((cell) => cell.title)"))


def test_one_click_walks_through_the_two_layer_network(page: Page, service: Service, shot) -> None:
    page.goto("/learn")
    walk(page)
    assert stages(page) == TWO_LAYER
    expect(page.locator(".verdict").first).to_contain_text("By hand and by autograd: the same")
    walked = file_of(page, service)
    for stage in walked["stages"]:
        part = page.locator(f"#{stage['name']}")
        expect(part.locator("math")).to_be_visible()
        expect(part.locator(".verdict")).to_contain_text("✓ the same")
        ways = part.locator(".ways table" if stage["axes"] else ".ways dd")
        expect(ways).to_have_count(2)
        if stage["axes"]:
            cells = ways.first.locator("tbody td").evaluate_all("all => all.map((cell) => Number(cell.title))")
            assert cells == [n for row in stage["manual"]["corner"] for n in (row if isinstance(row, list) else [row])]
    shades_follow_numbers(page)
    pictures = page.locator(".images img")
    expect(pictures).to_have_count(walked["batch"]["size"])
    assert pictures.evaluate_all("all => all.every((image) => image.naturalWidth === 8)")
    shot(page, "learn")


def test_the_linear_network_with_the_article_s_loss(page: Page, service: Service, shot) -> None:
    page.goto("/learn")
    page.get_by_label("Network").select_option("linear")
    expect(page.get_by_label("Hidden units")).to_be_hidden()
    page.get_by_label("Initialisation").select_option("normal")
    page.get_by_label("Loss").select_option("clamped_cross_entropy sum")
    page.get_by_label("Batch size").fill("64")
    walk(page)
    assert stages(page) == ["batch", "net", "logits", "softmax", "losses", "loss", "dlogits", "dW", "db"]
    spec = file_of(page, service)["spec"]
    assert (spec["init"]["type"], spec["batch_size"]) == ("normal", 64)
    assert (spec["loss"]["type"], spec["loss"]["reduction"]) == ("clamped_cross_entropy", "sum")
    expect(page.locator("#losses math")).to_contain_text("1e-10")
    expect(page.get_by_label("Loss", exact=True)).to_have_value("clamped_cross_entropy sum")
    shot(page, "learn-linear")


def test_an_error_is_shown_at_its_field(page: Page, complaints, axe) -> None:
    complaints.expect("422")
    page.goto("/learn")
    page.get_by_label("Batch", exact=True).fill("100000")
    page.get_by_label("Hidden units").fill("0")
    page.get_by_role("button", name="Walk").click()
    expect(page.locator(".field", has=page.get_by_label("Hidden units")).locator(".error")).to_contain_text(
        "greater than or equal to 1"
    )
    expect(page.get_by_label("Hidden units")).to_be_focused()
    page.get_by_label("Hidden units").fill("5")
    page.get_by_role("button", name="Walk").click()
    expect(page.locator(".field", has=page.get_by_label("Batch", exact=True)).locator(".error")).to_contain_text(
        "digits has 203 batches of 8; got 100000"
    )
    page.get_by_label("Batch", exact=True).fill("203")
    walk(page)
    expect(page.locator("#hidden .verdict")).to_contain_text("1 × 5")  # the rest of an epoch
    page.locator("summary").evaluate_all("all => all.forEach((summary) => summary.click())")
    axe(page)


def test_a_walk_is_requested_and_read_by_keyboard_alone(page: Page) -> None:
    page.goto("/learn")
    page.keyboard.press("w")
    arrived(page)
    for name in ("batch", "net", "hidden"):
        page.keyboard.press("j")
        expect(page.locator(f"#{name}")).to_be_focused()
    expect(page.locator("#hidden")).to_be_in_viewport()
    expect(page.locator(".stages [aria-current]")).to_have_text("Hidden layer")
    page.keyboard.press("k")
    expect(page.locator("#net")).to_be_focused()
    before = page.url
    page.keyboard.press("n")
    expect(page).not_to_have_url(before)
    expect(page.get_by_role("button", name="Batch 3")).to_be_visible()
    page.wait_for_load_state()
    page.get_by_role("button", name="Batch 1").click()
    expect(page.get_by_role("button", name="Batch 2")).to_be_visible()
    expect(page.locator("#before")).to_be_disabled()


def test_weights_of_a_job_determine_the_network(page: Page, service: Service) -> None:
    net = {"type": "mlp", "hidden": [20], "activation": "tanh"}
    job = service.wait(service.submit(name="taught", architecture=net, epochs=20, seed=1)["id"])
    page.goto("/learn")
    page.get_by_label("Network").select_option("linear")
    page.get_by_label("Weights").select_option(job["id"])
    expect(page.get_by_label("Hidden units")).to_have_value("20")
    expect(page.get_by_label("Activation")).to_have_value("tanh")
    expect(page.get_by_label("Initialisation")).to_be_hidden()
    page.get_by_label("Batch size").fill("32")
    walk(page)
    expect(page.locator("#net")).to_contain_text("64 → 20 → 10, tanh after the first layer")
    expect(page.locator("#net a")).to_have_attribute("href", f"/jobs/{job['id']}")
    assert page.locator(".images .good").count() >= 24
    assert file_of(page, service)["spec"]["init_from"] == {"job": job["id"]}


def test_a_queued_walk_shows_the_reason_and_its_end_without_a_reload(page: Page, service: Service, axe) -> None:
    job = service.http.post("/v1/walks", json={"device": "cuda"}).json()
    with page.expect_request(re.compile(rf"/{job['id']}\?wait=")) as first:
        page.goto(f"/learn?job={job['id']}")
    assert "wait=0&" in first.value.url, "the first poll was a long poll, which delays the reason"
    expect(page.locator("#why")).to_contain_text("cuda")
    axe(page)
    service.cancel(job["id"])
    expect(page.locator("#waiting .status")).to_have_text("cancelled")


def test_a_rate_limited_page_continues_to_wait(page: Page, service: Service, complaints) -> None:
    complaints.expect("429")
    refusals = []

    def refuse(route: Route) -> None:
        if refusals:
            return route.fallback()
        refusals.append(route.request.url)
        body = {"status": 429, "code": "rate_limited", "detail": "too often", "errors": []}
        return route.fulfill(status=429, headers={"Retry-After": "1"}, json=body)

    job = service.http.post("/v1/walks", json={"device": "cuda"}).json()
    page.route("**/v1/jobs/*?wait=*", refuse)
    with page.expect_response(lambda answer: answer.status == 429):
        page.goto(f"/learn?job={job['id']}")
    service.cancel(job["id"])
    expect(page.locator("#waiting .status")).to_have_text("cancelled")
