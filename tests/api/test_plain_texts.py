"""Texts of clients at every door: what a terminal would obey, or what hides or turns text, is refused by field and code
point; a row that has such a text already goes on working."""

from __future__ import annotations

import io
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
from sqlalchemy import update
from support.images import folders, npz, small, zipped

from shared.db.tables import Job
from shared.jobs.states import JobState

LETTERS = ("\x9b", "\x85", "\u202e", "\u2028", "\ufffe")


def upload(client, content: bytes, **fields: str):
    data = {"file": (io.BytesIO(content), "a.zip"), **fields}
    return client.post("/v1/datasets", data=data, content_type="multipart/form-data")


@pytest.mark.parametrize("letter", LETTERS, ids=ascii)
class TestRefused:
    def named(self, error, pointer: str, letter: str) -> None:
        assert error["pointer"] == pointer
        assert f"U+{ord(letter):04X}" in error["detail"]
        assert letter not in error["detail"]

    def test_in_jobs_of_each_kind_and_in_their_changes(self, client, hands, problem, letter):
        for kind in ("jobs", "gradient-checks", "walks"):
            (error,) = problem(client.post(f"/v1/{kind}", json={"name": f"a{letter}"}), 422, "invalid_spec")["errors"]
            self.named(error, "/name", letter)
        url = hands.submit()["links"]["self"]
        for body, pointer in (
            ({"name": letter}, "/name"),
            ({"labels": {"a": letter}}, "/labels/a"),
            ({"labels": {letter: "a"}}, f"/labels/{letter}"),
        ):
            (error,) = problem(client.patch(url, json=body), 422, "invalid_body")["errors"]
            self.named(error, pointer, letter)

    def test_in_filters(self, client, problem, letter):
        answer = client.get(f"/v1/jobs?label.a={quote(letter)}")
        self.named(problem(answer, 422, "invalid_query")["errors"][0], "/label.a", letter)
        body = {"action": "cancel", "ids": [letter]}
        self.named(problem(client.post("/v1/jobs/bulk", json=body), 422, "invalid_body")["errors"][0], "/ids/0", letter)

    def test_in_names_of_datasets_and_of_classes(self, client, problem, letter):
        answer = upload(client, zipped(folders(12)), name=f"a{letter}")
        self.named(problem(answer, 422, "invalid_upload")["errors"][0], "/name", letter)
        detail = problem(upload(client, npz(**small(classes=["a", "b", f"c{letter}", "d"]))), 422, "bad_labels")[
            "detail"
        ]
        assert f"U+{ord(letter):04X}" in detail
        assert letter not in detail

    def test_a_request_id_with_it_is_replaced(self, client, letter):
        sent = letter.encode().decode("latin-1")
        answer = client.get("/healthz", headers={"X-Request-Id": f"a{sent}"})
        assert answer.headers["X-Request-Id"].isalnum()

    def test_a_path_with_it_is_answered_in_ascii(self, client, letter):
        answer = client.get(f"/v1/jobs/{quote(letter)}")
        assert (answer.status_code, answer.data.isascii()) == (404, True)


@pytest.fixture
def old(hands, services) -> str:
    """The id of a succeeded job whose name and labels are older than the rule."""
    hands.submit(seed=1)
    lease = hands.start()
    hands.point(lease, 5, 1, train_loss=0.5)
    hands.store(lease, "model.safetensors", b"")
    hands.finish(lease, JobState.SUCCEEDED, result={"train_loss": 0.5})
    text = "".join(LETTERS)
    with services.database.write() as session:
        spec = {**session.get(Job, lease.job_id).spec, "name": text, "labels": {text: text}}
        session.execute(update(Job).where(Job.id == lease.job_id).values(name=text, labels={text: text}, spec=spec))
    return lease.job_id


def test_the_picture_of_an_old_job_is_xml(client, old):
    answer = client.get(f"/v1/jobs/{old}/loss_curve.svg")
    ElementTree.fromstring(answer.data)
    assert b"\\x9b\\x85\\u202e\\u2028\\ufffe" in answer.data


def test_an_old_job_is_shown_reproduced_and_submitted_again(client, old):
    assert client.get(f"/v1/jobs/{old}").data.isascii()
    assert client.post(f"/v1/jobs/{old}/reproduce").status_code == 202
    assert client.get(f"/submit?from={old}").status_code == 200
    assert client.patch(f"/v1/jobs/{old}", json={"name": "new"}).json["name"] == "new"
    assert client.patch(f"/v1/jobs/{old}", json={"labels": None}).json["labels"] == {}
