"""The verbs that follow jobs: ps -w, logs, watch, wait; in a pipe, as JSON, and on a terminal."""

from __future__ import annotations

import io
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console
from support.waiting import wait_for

from gradq.commands.ps import changed, jobs_table, moment, seen, show
from gradq.commands.wait import wait_for as wait_for_jobs
from gradq.commands.watch import draw_live
from shared.jobs import queue
from shared.jobs.joblog import Line
from shared.jobs.states import JobState


def terminal(height: int = 30) -> tuple[Console, io.StringIO]:
    drawn = io.StringIO()
    return Console(file=drawn, force_terminal=True, color_system=None, width=80, height=height), drawn


@contextmanager
def meanwhile(work: Any, *arguments: Any) -> Iterator[None]:
    """Runs a function in parallel with the block; its failure fails the test."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(*arguments)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(60)
    assert not failed, failed


# --- ps ---------------------------------------------------------------------------------------------------------------


def test_ps_filters_by_name_label_and_age(gradq, api):
    one = api.submit(name="vision-1", labels={"team": "vision"})
    other = api.submit(name="speech-1", labels={"team": "speech"})

    def listed(*options: str) -> list[str]:
        return [job["id"] for job in json.loads(gradq("ps", *options, "--json").stdout)["data"]]

    assert listed("--name", "vision-*") == [one]
    assert listed("--label", "team=speech") == [other]
    assert listed("--since", "2h") == [other, one]
    assert listed("--since", (datetime.now() + timedelta(days=1)).date().isoformat()) == []
    assert listed("-n", "1") == [other]
    assert gradq("ps", "-q", "--label", "team=vision").stdout == f"{one}\n"
    assert gradq("ps", "--since", "soon").exit_code == 2
    assert "neither an age (30m, 2h, 3d, 1w) nor a date" in gradq("ps", "--since", "soon").stderr
    assert "KEY=VALUE" in gradq("ps", "--label", "team").stderr


def test_ps_goes_over_pages_where_all_are_asked_for(gradq, api):
    ids = [api.submit() for _ in range(103)]
    assert len(gradq("ps").stdout.splitlines()) == 21
    assert len(gradq("ps", "-n", "102").stdout.splitlines()) == 103
    assert [line.split()[0] for line in gradq("ps", "--all").stdout.splitlines()[1:]] == ids[::-1]


def test_an_age_is_counted_back_and_a_date_is_this_machines():
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert moment("90s", now) == now - timedelta(seconds=90)
    assert moment("1.5h", now) == now - timedelta(minutes=90)
    assert moment("2w", now) == now - timedelta(days=14)
    assert moment("2026-11-24", now) == datetime(2026, 11, 24).astimezone()
    assert moment("2026-11-24T10:00:00Z", now) == now - timedelta(hours=2)


def test_ps_that_goes_on_tells_of_each_change_of_state_once(api, monkeypatch):
    monkeypatch.setattr("gradq.commands.ps.REFRESH_SECONDS", 0.0)
    first = api.submit()
    changes = changed(itertools.islice(seen(api.client, 20, {}), 4))
    assert [(job["id"], job["status"]) for job in itertools.islice(changes, 1)] == [(first, "queued")]
    lease = api.start()
    second = api.submit()
    assert {(job["id"], job["status"]) for job in itertools.islice(changes, 2)} == {
        *((first, "running"), (second, "queued"))
    }
    api.finish(lease)
    assert [(job["id"], job["status"]) for job in changes] == [(first, "succeeded")]


def test_on_a_terminal_the_table_is_drawn_anew(api, monkeypatch):
    monkeypatch.setattr("gradq.commands.ps.REFRESH_SECONDS", 0.0)
    job_id = api.submit()
    console, drawn = terminal()
    lists = seen(api.client, 20, {})
    show(itertools.islice(lists, 1), console, as_json=False)
    assert "queued" in drawn.getvalue()
    api.start()
    show(itertools.islice(lists, 1), console, as_json=False)
    last = [line for line in drawn.getvalue().splitlines() if job_id in line][-1]
    assert "running" in last


def test_ages_in_a_table_are_rough(api):
    console, drawn = terminal()
    jobs = [{**api.client.job(api.submit()), "created_at": (datetime.now(UTC) - timedelta(minutes=125)).isoformat()}]
    jobs_table(jobs, console)
    assert drawn.getvalue().splitlines()[1].split()[-2:] == ["2", "h"]
    assert "-/5" in drawn.getvalue(), "how far it is, also on a screen of 80 columns"


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(api) -> str:
    job_id = api.submit(epochs=2)
    lease = api.start()
    api.point(lease, 20, 1, train_loss=1.5, val_loss=1.25)
    with api.database.write() as session:
        queue.append(session, lease, [Line("warning", "the disk is nearly full", {"free": 12}, level="warning")])
    api.point(lease, 40, 2, train_loss=0.5, val_loss=0.75)
    api.finish(lease)
    return job_id


def test_logs_prints_a_line_an_event_by_kind_and_level(gradq, trained):
    lines = gradq("logs", trained).stdout.splitlines()
    assert "status" in lines[0]
    assert "job queued" in lines[0]
    [warned] = gradq("logs", trained, "--level", "warning").stdout.splitlines()
    assert warned.endswith("warning     the disk is nearly full  free=12")
    assert len(gradq("logs", trained, "--type", "metric").stdout.splitlines()) == 2
    assert not any("\x1b" in line for line in lines)
    for option in (("--type", "metrics"), ("--level", "loud")):
        result = gradq("logs", trained, *option)
        assert (result.exit_code, "must be one of" in result.stderr) == (2, True)


def test_logs_as_json_is_an_object_a_line_from_a_cursor(gradq, trained):
    events = [json.loads(line) for line in gradq("logs", trained, "--json").stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    after = [json.loads(line) for line in gradq("logs", trained, "--after", "3", "--json").stdout.splitlines()]
    assert after == events[3:]


def test_logs_that_follow_see_the_end(gradq, api):
    job_id = api.submit()
    lease = api.start()
    with meanwhile(api.finish, lease):
        result = gradq("logs", job_id, "-f", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, events[-1]["data"]["status"]) == (0, "succeeded")
    assert len({event["seq"] for event in events}) == len(events)


# --- watch ------------------------------------------------------------------------------------------------------------


def test_watch_as_json_is_the_log_and_then_the_job(gradq, trained):
    result = gradq("watch", trained, "--json")
    *events, job = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert (job["object"], job["id"], job["status"]) == ("job", trained, "succeeded")
    assert events == [json.loads(line) for line in gradq("logs", trained, "--json").stdout.splitlines()]


def test_submit_and_watch_follows_the_new_job(gradq, api):
    def train() -> None:
        wait_for(lambda: list(api.client.jobs(status="queued")), 20, "a queued job")
        lease = api.start()
        api.point(lease, 20, 1, train_loss=1.5)
        api.finish(lease, JobState.FAILED)

    with meanwhile(train):
        result = gradq("submit", "--epochs", "1", "--watch")
    assert result.exit_code == 1
    assert "epoch 1/1  train_loss 1.5" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("diverged: loss is nan")


def test_watch_draws_while_the_job_goes_and_says_why_it_waits(api, monkeypatch):
    monkeypatch.setattr("gradq.commands.watch.FRAME_SECONDS", 0.01)
    job_id = api.submit(epochs=2, name="drawn")
    console, drawn = terminal()

    def train() -> None:
        wait_for(lambda: "number 1: no worker is alive" in drawn.getvalue(), 20, "a picture of the waiting job")
        lease = api.start()
        api.point(lease, 20, 1, train_loss=1.5)
        wait_for(lambda: "train 1.5" in drawn.getvalue(), 20, "a picture of the first epoch")
        api.finish(lease)

    with meanwhile(train):
        assert draw_live(api.client, job_id, console)["status"] == "succeeded"
    assert "drawn  succeeded" in drawn.getvalue()


# --- wait -------------------------------------------------------------------------------------------------------------


def test_on_a_terminal_each_job_that_is_waited_for_has_a_bar(api, monkeypatch):
    monkeypatch.setattr("gradq.commands.wait.GLANCE_SECONDS", 0.01)
    first = api.submit(name="one")
    lease = api.start()
    second = api.submit(name="two")
    console, drawn = terminal()

    def train() -> None:
        wait_for(lambda: "one" in drawn.getvalue() and "two" in drawn.getvalue(), 20, "two bars")
        api.finish(lease)
        api.finish(api.start(), JobState.FAILED)

    with meanwhile(train):
        jobs = wait_for_jobs(api.client, [first, second], 30, console)
    assert [job["status"] for job in jobs] == ["succeeded", "failed"]
    assert "succeeded" in drawn.getvalue()
