"""A service that requires tokens, in a browser: signing in and out, what each owner sees."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from support.browser import Complaints
from support.people import revoke, token_for
from support.service import Service

from shared.db.database import Database


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API without workers: no job runs in these tests."""
    service = Service(tmp_path_factory.mktemp("guarded"), {"GRADQ_ALLOW_ANONYMOUS": "false"})
    service.migrate()
    service.start_broker()
    service.start_api()
    yield service
    service.close()


@pytest.fixture(scope="module")
def database(service: Service) -> Iterator[Database]:
    database = Database(f"sqlite:///{service.state / 'gradq.db'}")
    yield database
    database.close()


@pytest.fixture(scope="module")
def alice(database: Database) -> str:
    return token_for(database, "alice")


@pytest.fixture(autouse=True)
def refused(complaints: Complaints) -> None:
    complaints.expect("401")


def submit(service: Service, token: str, name: str) -> str:
    answer = service.http.post("/v1/jobs", json={"name": name}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_signing_in_leads_to_the_requested_page(page: Page, alice: str, axe, shot) -> None:
    page.goto("/system?x=1")
    expect(page).to_have_title("Sign in · gradq")
    axe(page)
    shot(page, "sign-in")
    sign_in(page, alice)
    expect(page).to_have_url("/system?x=1")
    expect(page.get_by_role("heading", level=1)).to_have_text("System")


def test_an_unknown_token_is_an_error_at_its_field(page: Page, alice: str, axe) -> None:
    page.goto("/compare")
    sign_in(page, "gq_wrong")
    expect(page.get_by_label("Token")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#token-error")).not_to_be_empty()
    axe(page)
    sign_in(page, alice)
    expect(page).to_have_url("/compare")


def test_each_owner_sees_their_jobs_and_an_admin_those_of_all_owners(
    page: Page, service: Service, database: Database, alice: str
) -> None:
    bob, carol = token_for(database, "bob"), token_for(database, "carol", "admin")
    mine, others = submit(service, alice, "alice's own"), submit(service, bob, "bob's own")
    page.goto("/")
    sign_in(page, alice)
    expect(page.locator(f"#{mine}")).to_be_visible()
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator(f"#{others}")).to_have_count(0)
    expect(page.locator("[data-count=queued]")).to_have_text("1")
    late = submit(service, bob, "bob's second")
    expect(page.locator(f"#{submit(service, alice, 'a later one')}")).to_be_visible()
    expect(page.locator(f"#{late}")).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, carol)
    expect(page.locator(f"#{late} .chip").first).to_have_text("bob")
    page.get_by_role("link", name="alice", exact=True).first.click()
    expect(page.locator(f"#{late}")).to_have_count(0)
    expect(page.locator(f"#{mine}")).to_be_visible()
    page.get_by_role("link", name="Remove the filter owner alice").click()
    expect(page.locator(f"#{late}")).to_be_visible()


def test_a_read_only_token_is_offered_nothing_that_changes_a_job(
    page: Page, service: Service, database: Database, axe
) -> None:
    job = submit(service, token_for(database, "erin"), "stays")
    page.goto("/")
    sign_in(page, token_for(database, "erin", "read"))
    page.locator(f"#{job}").get_by_role("checkbox").check()
    expect(page.get_by_role("button", name="Compare")).to_be_visible()
    for name in ("Cancel", "Retry", "Delete"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("link", name=re.compile("Submit|New job"))).to_have_count(0)
    for key in ("c", "n"):
        page.keyboard.press(key)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.goto("/submit")
    expect(page.locator("#read-only")).to_contain_text("This token may only read")
    expect(page.get_by_role("button", name="Submit")).to_have_count(0)
    axe(page)


def test_a_page_whose_token_is_revoked_asks_for_another(
    page: Page, service: Service, database: Database, complaints: Complaints
) -> None:
    token = token_for(database, "dave")
    page.goto("/")
    sign_in(page, token)
    expect(page.locator("#live")).to_have_text("live")
    revoke(database, token)
    expect(page).to_have_title("Sign in · gradq")
    expect(page.locator("#token-error")).to_contain_text("revoked")
