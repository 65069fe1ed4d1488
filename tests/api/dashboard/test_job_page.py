"""The job page as rendered by the server, in each state; without a browser."""

from __future__ import annotations

import re

import pytest

from api.dashboard.job_page import _place, _words, error_words, speed_words
from shared.jobs.joblog import Line
from shared.jobs.states import JobState

HTML = {"Accept": "text/html"}


@pytest.fixture
def text_of(client):
    """text_of(job): the HTML of its page."""

    def ask(job) -> str:
        answer = client.get(f"/jobs/{job['id']}", headers=HTML)
        assert answer.status_code == 200, answer.text
        assert answer.content_type.startswith("text/html")
        return answer.text

    return ask


def actions(text: str) -> list[str]:
    return [piece.split('"')[0] for piece in text.split('data-action="')[1:]]


class TestActions:
    def test_each_state_has_its_allowed_actions(self, hands, text_of, client):
        job = hands.submit()
        assert actions(text_of(job)) == ["cancel", "edit"]
        lease = hands.start()
        assert actions(text_of(job)) == ["cancel", "pause", "edit"]
        client.post(f"/v1/jobs/{job['id']}/pause")
        assert actions(text_of(job)) == ["cancel", "resume", "edit"]
        hands.release(lease)
        assert actions(text_of(job)) == ["cancel", "resume", "edit"]
        client.post(f"/v1/jobs/{job['id']}/cancel")
        assert actions(text_of(job)) == ["retry", "edit", "delete"]

    def test_a_training_that_succeeded_can_be_reproduced_and_a_gradient_check_not(
        self, hands, text_of, client, results
    ):
        job = hands.submit()
        hands.finish(hands.start(), result=results["succeeded"])
        assert actions(text_of(job)) == ["reproduce", "edit", "delete"]
        check = client.post("/v1/gradient-checks", json={}).json
        hands.finish(hands.start(), result=None)
        assert actions(text_of(check)) == ["edit", "delete"]


class TestWords:
    def test_the_head_says_why_a_job_waits_and_why_it_ended(self, hands, text_of, client):
        job = hands.submit()
        text = text_of(job)
        assert "Place 1 in the queue" in text
        detail = client.get(f"/v1/jobs/{job['id']}").json["queue"]["reason"]["detail"]
        assert re.sub(r"`(.+?)`", r"<code>\1</code>", detail) in text
        hands.finish(hands.start(), JobState.FAILED, reason={"code": "diverged", "detail": "the loss is not finite"})
        text = text_of(job)
        assert "diverged" in text
        assert "the loss is not finite" in text
        assert "Place 1" not in text

    @pytest.mark.parametrize(
        ("identical", "expected"),
        [(True, "identical: the same curve"), (False, "first difference is at step 7, in batch_loss: 0.5 in that job")],
    )
    def test_the_outcome_of_a_reproduction_is_shown(self, hands, text_of, client, results, identical, expected):
        original = hands.submit()
        hands.finish(hands.start(), result=results["succeeded"])
        again = client.post(f"/v1/jobs/{original['id']}/reproduce").json
        assert "results are compared at the end" in text_of(again)
        difference = None if identical else {"step": 7, "metric": "batch_loss", "expected": 0.5, "found": 0.25}
        reproduction = {
            "of": original["id"],
            "identical": identical,
            "first_difference": difference,
            "environment_differences": {} if identical else {"threads": {"expected": 1, "found": 2}},
        }
        hands.finish(hands.start(), result=results["succeeded"] | {"reproduction": reproduction})
        text = text_of(again)
        assert expected in text
        assert ("threads 1 in that job, 2 in this one" in text) is not identical

    def test_a_walk_shows_whether_both_ways_agree_and_links_to_learn(self, hands, text_of, client, results):
        walk = client.post("/v1/walks", json={}).json
        assert "loss_chart" not in text_of(walk)
        result = {
            "agrees": True, "loss": 2.3, "max_relative_difference": 1.5e-16, "stages": 9, "parameters": 2260,
            "device": "cpu", "duration_seconds": 0.1, "environment": results["succeeded"]["environment"],
        }  # fmt: skip
        hands.finish(hands.start(), result=result)
        text = text_of(walk)
        assert "1.5e-16" in text
        assert f'href="/learn?job={walk["id"]}"' in text

    def test_texts_of_clients_are_escaped(self, hands, text_of):
        evil = '"><script>alert(1)</script>'
        job = hands.submit(name=evil, labels={evil: evil})
        hands.append(hands.start(), Line("log", evil, {}))
        text = text_of(job)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text

    def test_a_job_that_starts_from_another_links_to_it(self, hands, text_of, results):
        first = hands.submit()
        lease = hands.start()
        files = [hands.store(lease, "model.safetensors", b"weights")]
        hands.finish(lease, result=results["succeeded"], files=files)
        second = hands.submit(init_from={"job": first["id"]})
        assert f'href="/jobs/{first["id"]}"' in text_of(second)

    def test_the_cursor_is_the_last_line_of_the_log(self, hands, text_of):
        job = hands.submit()
        hands.append(hands.start(), Line("log", "hello", {}))
        assert 'data-cursor="3"' in text_of(job)

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ({"type": "mlp", "hidden": [30, 20], "batch_norm": False}, "mlp, hidden 30 20, batch norm no"),
            ({"fraction": 0.1}, "fraction 0.1"),
            ([{"type": "shift", "pixels": 2}, {"type": "flip"}], "shift, pixels 2; flip"),
            ([], "none"),
            (None, "none"),
            (86400.0, "86400"),
        ],
    )  # fmt: skip
    def test_a_value_of_the_spec_is_one_line(self, value, words):
        assert _words(value) == words


def test_an_error_has_its_place_on_a_scale_of_powers_of_ten():
    assert [_place(error) for error in (0.0, 1e-20, 1e-18, 1e-9, 1.0, 1e300)] == [0, 0, 0, 50, 100, 100]
    assert [error_words(error) for error in (0.0, 1.23e-10)] == ["0", "1.2e-10"]
    assert [speed_words(speed) for speed in (None, 182_345.6, 12.34)] == ["–", "182\u2009000", "12"]
