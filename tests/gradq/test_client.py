"""The client: files arrive whole or not at all, and names from outside cannot leave their folder."""

from __future__ import annotations

import pytest

from gradq.client import Client
from gradq.problems import ApiError, Unreachable
from gradq.steering import patiently


def test_a_problem_becomes_an_error_with_its_code_and_fields(api):
    with pytest.raises(ApiError) as caught:
        api.client.submit({"lr": -1})
    assert (caught.value.status, caught.value.code) == (422, "invalid_spec")
    assert caught.value.errors[0]["pointer"] == "/lr"


def test_a_job_id_cannot_reach_another_path(api):
    with pytest.raises(ApiError) as caught:
        api.client.job("../workers")
    assert caught.value.status == 404


def test_events_go_on_from_the_cursor(api):
    job_id = api.submit()
    job = api.client.job(job_id)
    [queued] = job.events()
    assert (queued.type, queued.status) == ("status", "queued")
    assert job.events(after=queued.seq) == []


def test_a_wait_outlives_a_short_absence():
    answers = iter([Unreachable("http://x", "refused"), ApiError(503, "database_away", "away"), "here"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call) == "here"


def test_a_wait_ends_at_once_for_an_error_that_stays():
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        patiently(lambda: client.job("job_0"), deadline=0.0)
