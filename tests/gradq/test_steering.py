"""The verbs that change jobs: several ids, a line each, one refusal does not keep the others from it; and errors that a
script can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gradq.cli import app
from gradq.commands.ps import jobs_table
from shared import workers
from shared.db.tables import Worker
from shared.jobs.states import JobState


def test_one_that_is_refused_does_not_keep_the_others_from_it(gradq, api):
    done, waiting = api.ended(), api.submit()
    result = gradq("cancel", done, "job_0", waiting)
    assert result.exit_code == 1
    assert result.stdout.split()[:2] == [waiting, "cancelled"]
    assert f"gradq: {done}: cannot cancel a job that is succeeded" in result.stderr
    assert "gradq: job_0: job job_0 not found" in result.stderr


def test_outcomes_as_json_have_a_job_or_a_problem_each(gradq, api):
    done, waiting = api.ended(), api.submit()
    result = gradq("cancel", done, waiting, "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    refused, cancelled = json.loads(result.stdout)["data"]
    assert (refused["id"], refused["ok"], refused["error"]["code"]) == (done, False, "wrong_state")
    assert (refused["error"]["state"], refused["error"]["allowed"][0]) == ("succeeded", "delete")
    assert (cancelled["id"], cancelled["ok"], cancelled["status"]) == (waiting, True, "cancelled")


def test_a_service_that_goes_away_ends_the_row(gradq, api):
    result = gradq("cancel", api.submit(), "--url", "http://127.0.0.1:1")
    assert (result.exit_code, "is `gradq up` running?" in result.stderr) == (1, True)


def test_rm_deletes_ended_jobs_and_wants_to_be_sure(gradq, api):
    done, waiting = api.ended(JobState.FAILED), api.submit()
    asked = gradq("rm", done)
    assert (asked.exit_code, "--yes" in asked.stderr) == (2, True), "stdin is not a terminal"
    result = gradq("rm", done, waiting, "--yes")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{done}  deleted, ")
    assert f"{waiting}: " in result.stderr
    assert gradq("show", done).exit_code == 1


@pytest.mark.parametrize(("answer", "code", "said"), [("y", 0, "deleted, "), ("n", 1, "nothing was deleted")])
def test_rm_asks_on_a_terminal(api, answer, code, said):
    job_id = api.ended()
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-m", "gradq", "rm", job_id, "--url", api.url]
    process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    os.write(keyboard, f"{answer}\n".encode())
    output, _ = process.communicate(timeout=150)
    os.close(keyboard)
    os.close(terminal)
    assert (process.returncode, said in output) == (code, True), output
    assert "Delete this job and its files?" in output
    assert bool(list(api.client.jobs())) == (code == 1)


def test_update_without_a_change_says_what_can_be_changed(gradq, api):
    result = gradq("update", api.submit())
    assert result.exit_code == 2
    assert "--priority, --name or --label" in result.stderr
    assert "KEY=" in gradq("update", api.submit(), "--label", "team").stderr


def test_update_changes_what_is_named_and_leaves_the_rest(gradq, api):
    job_id = api.submit(name="old", labels={"team": "vision", "old": "1"})
    options = ("--priority", "90", "--label", "old=", "--label", "new=2")
    [job] = json.loads(gradq("update", job_id, *options, "--json").stdout)["data"]
    assert (job["priority"], job["name"], job["labels"]) == (90, "old", {"team": "vision", "new": "2"})
    assert "priority  " in gradq("show", job_id).stdout


def test_retry_queues_a_failed_job_again(gradq, api):
    job_id, done = api.ended(JobState.FAILED), api.ended()
    result = gradq("retry", job_id)
    assert (result.exit_code, result.stdout.split()[:2]) == (0, [job_id, "queued"]), result.output
    assert gradq("retry", done).exit_code == 1


def test_workers_lists_live_workers_and_says_how_to_start_one(gradq, api):
    assert "gradq worker" in gradq("workers").stdout
    found = json.loads(gradq("workers", "--json").stdout)
    assert (found["object"], found["data"]) == ("list", [])
    with api.database.write() as session:
        devices = {"kinds": ["cpu"], "slots": [{"kind": "cpu", "name": "cpu", "uuid": None}]}
        facts = {"id": "w1", "host": "gpu1", "pid": 1, "slots": 2, "free_slots": 1, "version": "1.2", "draining": True}
        workers.heartbeat(session, Worker(**facts, devices=devices, started_at=datetime.now(UTC)))
    job_id = api.submit()
    api.start()
    api.submit()
    lines = [line.split() for line in gradq("workers").stdout.splitlines()]
    assert lines[1][:8] == ["w1", "gpu1", "cpu", "2", "1", job_id, "1.2", "draining"]
    assert ["queue", "queued", "running", "paused", "slots", "free", "oldest", "why"] in lines
    assert next(line for line in lines if line[:1] == ["auto"])[1:3] == ["1", "1"]
    assert [queue["name"] for queue in json.loads(gradq("workers", "--json").stdout)["queues"]]


def test_show_tells_the_whole_story_of_a_job(gradq, api):
    job_id = api.submit(labels={"team": "vision"}, priority=70)
    assert "number 1: no_live_worker" in gradq("show", job_id).stdout
    lease = api.start()
    shown = {line.split("  ")[0]: line for line in gradq("show", job_id).stdout.splitlines()}
    assert "team=vision" in shown["labels"]
    assert "70" in shown["priority"]
    assert "cpu, on w1, under way" in shown["attempt 1"]
    api.finish(lease, JobState.FAILED)
    assert "attempt 1" in gradq("show", job_id).stdout
    assert "diverged: loss is nan" in gradq("show", job_id).stdout


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("show", "job_0"), 1, "not_found"),
        (("ps", "--url", "http://127.0.0.1:1"), 1, "unreachable"),
        (("ps", "--limit", "none"), 2, "usage_error"),
        (("submit", "--lr", "-1"), 2, "invalid_spec"),
        (("submit", "--wait", "--timeout", "0"), 124, "wait_timeout"),
        (("nonsense",), 2, "usage_error"),
    ],
)
def test_with_json_an_error_is_a_problem_on_stderr_with_the_same_exit_code(gradq, arguments, exit_code, code):
    result = gradq(*arguments, "--json")
    problem = json.loads(result.stderr)
    assert (result.exit_code, problem["code"]) == (exit_code, code)
    assert (problem["type"], bool(problem["detail"])) == (f"/problems/{code.replace('_', '-')}", True)
    assert result.stdout == ""
    assert gradq(*arguments).exit_code == exit_code


def test_a_problem_of_the_service_keeps_its_fields_and_its_request(gradq):
    problem = json.loads(gradq("submit", "--lr", "-1", "--set", "optimiser=adam", "--json").stderr)
    assert [wrong["pointer"] for wrong in problem["errors"]] == ["/lr", "/optimiser"]
    assert problem["status"] == 422
    assert problem["request_id"]
    assert "gradq submit --help" in problem["next_step"]


def test_no_color_is_respected_on_a_terminal(api, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    api.ended()
    colourful, plain = StringIO(), StringIO()
    jobs_table(list(api.client.jobs()), Console(file=colourful, force_terminal=True, width=80))
    monkeypatch.setenv("NO_COLOR", "1")
    jobs_table(list(api.client.jobs()), Console(file=plain, force_terminal=True, width=80))
    assert "\x1b[32m" in colourful.getvalue()
    assert "\x1b[3" not in plain.getvalue()


def test_a_setting_that_is_wrong_is_a_problem_too(monkeypatch):
    monkeypatch.setenv("GRADQ_SLOTS", "many")
    result = CliRunner().invoke(app, ["migrate", "--json"])
    assert (result.exit_code, json.loads(result.stderr)["code"]) == (2, "configuration_error")
