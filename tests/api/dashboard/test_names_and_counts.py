"""What pages show of jobs: datasets by their names, one loss, counts of what is listed, nothing to press without the
right to."""

from __future__ import annotations

import json
import re
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.images import npz, small
from support.people import bearer, token_for

from api.app import create_app
from api.dashboard.words import number, with_code
from shared.db.tables import Job

HTML = {"Accept": "text/html"}
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def uploaded(client: FlaskClient) -> str:
    """The id of an uploaded dataset with the name `road <signs>`."""
    data = {"file": (BytesIO(npz(**small())), "signs.npz"), "name": "road <signs>"}
    answer = client.post("/v1/datasets", data=data)
    assert answer.status_code == 201, answer.text
    return str(answer.json["id"])


def finished(hands: Any, **spec: Any) -> str:
    job_id = str(hands.submit(**spec)["id"])
    lease = hands.start()
    hands.progress(lease, epoch=1, epochs=1, step=100, total_steps=100, examples_per_second=9.0)
    hands.point(lease, 50, 1, series="batch", batch_loss=9.5)
    hands.point(lease, 100, 1, train_loss=0.123456, val_accuracy=0.5)
    hands.finish(lease, result={"train_loss": 0.123456, "test_accuracy": 0.5})
    return job_id


class TestNames:
    @pytest.fixture
    def job(self, hands: Any, uploaded: str) -> str:
        return finished(hands, dataset=uploaded, name="of signs", architecture="linear", epochs=1)

    @pytest.mark.parametrize("path", ["/", "/jobs/{job}", "/draw", "/draw?job={job}", "/learn", "/submit?from={job}"])
    def test_a_page_names_an_uploaded_dataset(self, client, uploaded: str, job: str, path: str) -> None:
        page = client.get(path.format(job=job), headers=HTML)
        assert page.status_code == 200
        assert "road &lt;signs&gt;" in page.text
        text = re.sub(r"<script.*?</script>|<[^>]+>", " ", page.text, flags=re.DOTALL)  # what is read, not values
        shown = re.findall(rf"\S*{uploaded}\S*", text)
        assert shown == ([f"({uploaded})"] if path.startswith("/jobs/") else [])  # the spec has the id beside the name

    @pytest.mark.parametrize(
        ("route", "name"),
        [
            ("jobs", "road <signs>-linear-autograd-abcd"),
            ("gradient-checks", "gradient-check-road <signs>-linear-abcd"),
            ("walks", "walk-road <signs>-linear-abcd"),
        ],
    )
    def test_a_job_without_a_name_gets_one_with_the_name_of_its_dataset(self, client, uploaded, route, name) -> None:
        body = {"dataset": uploaded, "architecture": "linear", "seed": 0xABCD}
        job = client.post(f"/v1/{route}", json=body).json
        assert job["name"] == name
        if route == "jobs":  # the copy gets a name of its own
            assert name not in client.get(f"/submit?from={job['id']}", headers=HTML).text

    def test_a_deleted_one_is_shown_by_its_id(self, client, uploaded: str, job: str) -> None:
        client.delete(f"/v1/datasets/{uploaded}")
        for path in ("/", f"/jobs/{job}"):
            page = client.get(path, headers=HTML)
            assert (page.status_code, uploaded in page.text) == (200, True)

    def test_each_owner_sees_their_own_name(self, settings, app, services, hands) -> None:
        closed = create_app(settings.model_copy(update={"allow_anonymous": False})).test_client()
        tokens = {owner: bearer(token_for(services.database, owner)) for owner in ("alice", "bob")}
        for owner, token in tokens.items():
            data = {"file": (BytesIO(npz(**small())), "a.npz"), "name": f"{owner}s signs"}
            dataset = closed.post("/v1/datasets", data=data, headers=token).json["id"]
            closed.post("/v1/jobs", json={"dataset": dataset}, headers=token)
        for owner, token in tokens.items():
            assert f">{owner}s signs<" in closed.get("/", headers={**HTML, **token}).text


class TestLoss:
    def test_the_list_shows_the_training_loss_as_the_page_of_the_job_does(self, client, hands) -> None:
        job = finished(hands, epochs=1)
        loss = number(0.123456)
        assert re.search(rf'title="training loss[^"]*">{loss}<', client.get("/", headers=HTML).text)
        assert re.search(rf"training loss</dt><dd[^>]*>{loss}<", client.get(f"/jobs/{job}", headers=HTML).text)

    def test_while_the_job_runs_it_is_that_of_the_last_epoch_and_never_that_of_a_batch(self, client, hands) -> None:
        hands.submit(epochs=2)
        lease = hands.start()
        hands.progress(lease, epoch=1, epochs=2, step=60, total_steps=200, examples_per_second=9.0)
        hands.point(lease, 50, 1, series="batch", batch_loss=9.5)
        page = client.get("/", headers=HTML).text
        assert ("polyline" in page, "training loss, mean" in page) == (True, False)
        hands.point(lease, 100, 1, train_loss=0.75)
        hands.progress(lease, epoch=1, epochs=2, step=120, total_steps=200, examples_per_second=9.0)
        assert re.search(r'title="training loss[^"]*">0.75<', client.get("/", headers=HTML).text)


class TestCounts:
    @pytest.fixture(autouse=True)
    def jobs(self, client, hands) -> None:
        for name, team in (("red one", "a"), ("red two", "b"), ("blue", "a")):
            hands.submit(name=name, labels={"team": team})
        client.post(f"/v1/jobs/{hands.submit(name='red gone', labels={'team': 'a'})['id']}/cancel")

    def counts(self, client, query: str) -> dict[str, int]:
        page = client.get(f"/{query}", headers=HTML).text
        return {name: int(n) for name, n in re.findall(r'data-count="(\w+)">(\d+)<', page) if n != "0"}

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("", {"queued": 3, "cancelled": 1}),
            ("?name=*red*", {"queued": 2, "cancelled": 1}),
            ("?label.team=a", {"queued": 2, "cancelled": 1}),
            ("?label.team=b", {"queued": 1}),
            ("?name=*red*&label.team=a", {"queued": 1, "cancelled": 1}),
            ("?status=cancelled", {"queued": 3, "cancelled": 1}),  # of what each button would select
            ("?name=*blue*&status=cancelled", {"queued": 1}),
            ("?limit=1", {"queued": 3, "cancelled": 1}),  # of all pages
            ("?created_before=2020-01-01T00:00:00Z", {}),
        ],
    )
    def test_they_are_of_the_jobs_that_match_the_other_filters(self, client, query: str, found) -> None:
        assert self.counts(client, query) == found
        stream = client.get(f"/{query}", headers=STREAM, buffered=False)
        pieces = stream.iter_encoded()
        next(pieces)
        view = re.findall(r"event: view\ndata: (.*)\n", next(pieces).decode())
        assert [json.loads(text)["counts"] for text in view] == [found]
        stream.close()

    def test_further_pages_have_the_same(self, client) -> None:
        page = client.get("/?limit=2", headers=HTML).text
        older = re.findall(r'rel="next" href="/([^"]+)"', page)[0].replace("&amp;", "&")
        assert self.counts(client, older) == {"queued": 3, "cancelled": 1}


class TestReadOnly:
    """A token of the scope `read`: nothing on a page does what its calls would refuse."""

    @pytest.fixture
    def reader(self, settings, app, services, hands):
        job = finished(hands, epochs=1)
        with services.database.write() as session:
            session.get_one(Job, job).owner = "alice"
        closed = create_app(settings.model_copy(update={"allow_anonymous": False})).test_client()
        tokens = {scope: bearer(token_for(services.database, "alice", scope, scope)) for scope in ("read", "submit")}
        return lambda path, scope="read": closed.get(path.format(job=job), headers={**HTML, **tokens[scope]})

    CHANGES = (
        ("/", 'href="/submit"'),
        ("/", 'data-action="cancel"'),
        ("/", 'data-action="retry"'),
        ("/", 'data-action="delete"'),
        ("/submit", 'id="send"'),
        ("/submit", "js/submit.js"),
        ("/jobs/{job}", "data-action="),
        ("/jobs/{job}", "/submit?from="),
        ("/jobs/{job}", "/draw?job="),
        ("/draw", 'id="pad"'),
        ("/system", 'id="upload"'),
        ("/learn", 'id="go">'),
    )

    @pytest.mark.parametrize(("path", "part"), CHANGES)
    def test_a_page_offers_a_change_only_to_who_may_make_it(self, reader, path: str, part: str) -> None:
        assert part not in reader(path).text
        assert part in reader(path, "submit").text

    @pytest.mark.parametrize("path", ["/submit", "/draw", "/learn"])
    def test_pages_that_are_for_changes_say_why_they_offer_none(self, reader, path: str) -> None:
        assert reader(path).status_code == 200
        assert "This token may only read (scope <code>read</code>)" in reader(path).text
        assert "may only read" not in reader(path, "submit").text

    def test_what_only_reads_stays(self, reader) -> None:
        assert 'data-action="compare"' in reader("/").text
        assert "/compare?job=" in reader("/jobs/{job}").text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("start one with `gradq worker`", "start one with <code>gradq worker</code>"),
        ("`a` and `b`", "<code>a</code> and <code>b</code>"),
        ("`<b>` & <i>", "<code>&lt;b&gt;</code> &amp; &lt;i&gt;"),
        ("one ` alone", "one ` alone"),
        ("``", "``"),
        ("", ""),
    ],
)
def test_words_between_backticks_are_code(text: str, html: str) -> None:
    assert with_code(text) == html
