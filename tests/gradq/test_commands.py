"""The verbs against the real API: their output and exit codes."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console
from support.faults import answers, faulty, problem
from support.waiting import wait_for
from typer.testing import CliRunner

from gradq.cli import app
from gradq.commands.watch import draw_live
from shared.jobs.states import JobState


def test_submit_sends_only_what_was_given(gradq, api):
    result = gradq("submit", "--lr", "0.5", "--gradients", "manual", "--label", "team=vision", "--json")
    assert result.exit_code == 0, result.output
    job = json.loads(result.stdout)
    assert (job["spec"]["lr"], job["spec"]["gradients"], job["labels"]) == (0.5, "manual", {"team": "vision"})
    assert job["spec"]["epochs"] == 5
    assert api.client.job(job["id"])["status"] == "queued"


def test_submit_lets_options_win_over_set_over_file(gradq, tmp_path: Path):
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({"lr": 0.1, "epochs": 1, "seed": 1, "labels": {"a": "1"}}))
    options = ("--set", "epochs=2", "--set", "seed=2", "--seed", "3", "--label", "b=2")
    job = json.loads(gradq("submit", "-f", str(file), *options, "--json").stdout)
    assert [job["spec"][field] for field in ("lr", "epochs", "seed")] == [0.1, 2, 3]
    assert job["labels"] == {"a": "1", "b": "2"}


def test_submit_takes_objects_and_standard_input(gradq):
    spec = json.dumps({"epochs": 7})
    options = ("--architecture", '{"type":"mlp","hidden":[8,8]}', "--set", "dataset=digits")
    job = json.loads(gradq("submit", "-f", "-", *options, "--json", stdin=spec).stdout)
    assert job["spec"]["epochs"] == 7
    assert job["spec"]["architecture"]["hidden"] == [8, 8]


def test_submit_names_every_wrong_field_and_the_next_step(gradq, api):
    result = gradq("submit", "--lr", "-1", "--set", "optimiser=adam")
    assert result.exit_code == 2
    assert "  lr: must be greater than 0, got -1" in result.stderr
    assert "  optimiser: unknown field; did you mean 'optimizer'?" in result.stderr
    assert "gradq submit --help" in result.stderr
    assert api.client.page()["data"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "--set", "epochs"), "must be KEY=VALUE"),
        (("submit", "-f", "/nowhere/spec.json"), "cannot read /nowhere/spec.json"),
        (("submit", "--architecture", "{mlp"), "not JSON"),
        (("submit", "--epochs", "many"), "--epochs"),
        (("wait",), "ID"),
        (("nonsense",), "nonsense"),
    ],
)
def test_a_wrong_command_line_exits_2_and_says_what(gradq, arguments, words):
    result = gradq(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_number_that_is_none_is_named_like_any_wrong_field(gradq, api):
    for options in (("--set", "lr=NaN"), ("--lr", "inf"), ("--set", "lr=1e999")):
        refused = gradq("submit", *options)
        assert refused.exit_code == 2
        assert "lr: must be a finite number" in refused.stderr


def test_a_wrong_filter_points_to_the_verb_that_takes_it(gradq, api):
    refused = gradq("ps", "--status", "finished")
    assert refused.exit_code == 2
    assert "gradq ps --help" in refused.stderr
    assert "submit" not in refused.stderr


def test_file_that_is_not_an_object_is_refused(gradq):
    assert gradq("submit", "-f", "-", stdin="[1]").exit_code == 2
    assert gradq("submit", "-f", "-", stdin="{").exit_code == 2


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((JobState.SUCCEEDED, JobState.SUCCEEDED), 0),
        ((JobState.SUCCEEDED, JobState.FAILED), 1),
        ((JobState.SUCCEEDED, JobState.CANCELLED), 3),
        ((JobState.CANCELLED, JobState.FAILED), 1),
    ],
)
def test_wait_tells_by_its_exit_code_how_the_jobs_ended(gradq, api, states, code):
    ids = [api.ended(state) for state in states]
    result = gradq("wait", *ids, "--json")
    assert result.exit_code == code
    assert [job["status"] for job in json.loads(result.stdout)["data"]] == [state.value for state in states]


@pytest.mark.parametrize(
    "away", [b"", answers(b"<html>", 502), answers(b"<html>", 504), problem(500, "internal_error")]
)
@pytest.mark.parametrize("verb", [("wait", "job_1"), ("watch", "job_1"), ("submit", "--wait"), ("check", "--wait")])
def test_a_service_that_stays_away_has_an_exit_code_of_its_own(monkeypatch, verb, away):
    """1 is a job that failed."""

    async def no_sleep(_: object, seconds: float) -> None:
        pass

    monkeypatch.setattr("gradq.client.transport.Blocking.sleep", no_sleep)
    for place in ("gradq.commands.wait", "gradq.commands.watch", "gradq.client.waiting", "gradq.client.events"):
        monkeypatch.setattr(f"{place}.PATIENCE_SECONDS", 0.0)
    with faulty(away) as server:
        result = CliRunner().invoke(app, [*verb, "--url", server.url])
        assert result.exit_code == 4, result.stderr
        assert result.stderr.startswith("gradq: ")
        assert CliRunner().invoke(app, ["show", "job_1", "--url", server.url]).exit_code == 1


def test_wait_outlives_a_gateway_that_answers_502(monkeypatch):
    monkeypatch.setattr("gradq.client.sender.LONGEST_PAUSE_SECONDS", 0.01)
    job = {"object": "job", "id": "job_1", "name": "a", "status": "running", "terminal": False, "kind": "training"}
    ended = {**job, "status": "succeeded", "terminal": True, "spec": {}, "result": {}, "progress": None}
    gateway = [answers(b"<html>", 502)] * 12
    with faulty(*gateway, answers(job), *gateway, answers(ended)) as server:
        result = CliRunner().invoke(app, ["wait", "job_1", "--url", server.url])
    assert result.exit_code == 0, result.stderr
    assert "job_1  succeeded" in result.stdout


def test_wait_ends_with_the_error_once_the_service_was_away_for_long(monkeypatch):
    monkeypatch.setattr("gradq.commands.wait.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("gradq.commands.wait.HOLD_SECONDS", 0.1)
    job = {"object": "job", "id": "job_1", "name": "a", "status": "running", "terminal": False}
    with faulty(answers(job), answers(b"<html>", 502)) as server:
        result = CliRunner().invoke(app, ["wait", "job_1", "--url", server.url])
    assert result.exit_code == 4
    assert "502" in result.stderr


def test_wait_gives_up_after_its_timeout(gradq, api):
    job_id = api.submit()
    result = gradq("wait", job_id, "--timeout", "0.2")
    assert result.exit_code == 124
    assert job_id in result.stderr


def test_wait_sees_a_job_end(gradq, api):
    job_id = api.submit()
    lease = api.start()
    timer = threading.Timer(0.3, api.finish, [lease])
    timer.start()
    result = gradq("wait", job_id, "--timeout", "30")
    timer.join()
    assert result.exit_code == 0
    assert f"{job_id}  succeeded" in result.stdout


def test_submit_and_wait_exits_like_wait(gradq):
    result = gradq("submit", "--wait", "--timeout", "0")
    assert result.exit_code == 124
    assert "queued" in result.stdout


def test_unknown_job_says_where_to_look(gradq):
    for verb in ("show", "wait", "cancel", "download", "watch"):
        result = gradq(verb, "job_0")
        assert result.exit_code == 1
        assert "gradq ps" in result.stderr


def test_ps_prints_plain_columns_in_a_pipe(gradq, api):
    done, waiting = api.ended(name="first"), api.submit(name="second")
    lines = gradq("ps").stdout.splitlines()
    assert lines[0].split()[:3] == ["id", "name", "status"]
    assert [line.split()[:3] for line in lines[1:]] == [[waiting, "second", "queued"], [done, "first", "succeeded"]]
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


def test_ps_filters_and_speaks_json(gradq, api):
    api.ended(JobState.FAILED)
    cancelled = api.ended(JobState.CANCELLED)
    api.submit()
    page = json.loads(gradq("ps", "--status", "cancelled", "--json").stdout)
    assert [job["id"] for job in page["data"]] == [cancelled]
    result = gradq("ps", "--status", "lost")
    assert result.exit_code == 2
    assert "status" in result.stderr


def test_show_tells_the_reason_of_a_failure(gradq, api):
    job_id = api.ended(JobState.FAILED)
    result = gradq("show", job_id)
    assert result.exit_code == 0
    assert "diverged: loss is nan" in result.stdout
    assert json.loads(gradq("show", job_id, "--json").stdout)["status"] == "failed"


def test_show_tells_why_a_job_waits(gradq, api):
    assert "no_live_worker" in gradq("show", api.submit()).stdout


def test_cancel_takes_several_jobs(gradq, api):
    ids = [api.submit(), api.submit()]
    result = gradq("cancel", *ids, "--json")
    assert result.exit_code == 0
    assert [job["status"] for job in json.loads(result.stdout)["data"]] == ["cancelled", "cancelled"]


def test_cancel_of_a_job_that_has_succeeded_is_refused(gradq, api):
    result = gradq("cancel", api.ended())
    assert result.exit_code == 1
    assert "succeeded" in result.stderr


def test_download_fetches_every_file(gradq, api, tmp_path: Path):
    job_id = api.submit()
    api.finish(api.start(), files={"model.safetensors": b"weights" * 1000, "metrics.csv": b"step\n"})
    result = gradq("download", job_id, "-o", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.output
    found = {Path(row["path"]).name: Path(row["path"]).read_bytes() for row in json.loads(result.stdout)["data"]}
    assert found == {"model.safetensors": b"weights" * 1000, "metrics.csv": b"step\n"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.csv", "model.safetensors"]


def test_download_of_one_file_and_of_a_wrong_name(gradq, api, tmp_path: Path):
    job_id = api.submit()
    api.finish(api.start(), files={"model.safetensors": b"w", "metrics.csv": b"s"})
    assert gradq("download", job_id, "metrics.csv", "-o", str(tmp_path / "one")).exit_code == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["metrics.csv"]
    result = gradq("download", job_id, "model.pt", "-o", str(tmp_path / "two"))
    assert result.exit_code == 2
    assert "metrics.csv" in result.stderr


def test_download_before_the_end_says_so(gradq, api):
    result = gradq("download", api.submit())
    assert result.exit_code == 1
    assert "no files yet" in result.stderr


def test_watch_prints_one_line_an_epoch_in_a_pipe(gradq, api):
    job_id = api.submit(epochs=2)
    lease = api.start()
    api.point(lease, 20, 1, train_loss=1.5, val_loss=1.25, val_accuracy=0.5, examples_per_second=1000.0)
    api.point(lease, 40, 2, train_loss=0.5, val_loss=0.75, val_accuracy=0.75, examples_per_second=2000.0)
    api.finish(lease)
    result = gradq("watch", job_id)
    assert result.exit_code == 0
    assert "epoch 1/2  train_loss 1.5  val_loss 1.25  val_accuracy 0.5  1 000 examples/s" in result.stdout
    assert "epoch 2/2" in result.stdout
    assert "\x1b" not in result.stdout


def test_without_a_service_the_message_asks_whether_gradq_is_up():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = CliRunner().invoke(app, ["ps", "--url", url])
    assert result.exit_code == 1
    assert f"cannot reach {url} — is `gradq up` running?" in result.stderr


def test_something_else_at_the_address_is_no_traceback(gradq, api):
    result = gradq("ps", "--url", f"{api.url}/docs")
    assert result.exit_code == 1
    assert result.stderr.startswith("gradq: ")
    assert gradq("ps", "--url", "nonsense").exit_code == 2


def test_watch_draws_the_curve_on_a_terminal(api):
    job_id = api.submit(epochs=2, name="drawn")
    lease = api.start()
    api.point(lease, 20, 1, train_loss=1.5, val_loss=1.25)
    api.point(lease, 40, 2, train_loss=0.5, val_loss=0.75)
    api.finish(lease)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=80, height=30)
    assert draw_live(api.client, job_id, console)["status"] == "succeeded"
    assert "drawn  succeeded" in out.getvalue()
    assert "train 0.5" in out.getvalue()
    assert any(0x2800 < ord(character) < 0x2900 for character in out.getvalue())


# --- pause, resume ----------------------------------------------------------------------------------------------------


def test_pause_and_resume_take_jobs_through_their_states(gradq, api):
    job_id = api.submit()
    lease = api.start()
    result = gradq("pause", job_id)
    assert (result.exit_code, f"{job_id}  pausing" in result.stdout) == (0, True)
    api.release(lease)
    assert "paused" in gradq("ps", "--status", "paused,pausing").stdout
    assert "paused" in gradq("show", job_id).stdout
    result = gradq("resume", job_id, "--json")
    assert [job["status"] for job in json.loads(result.stdout)["data"]] == ["queued"]
    result = gradq("resume", job_id)
    assert result.exit_code == 1
    assert "cannot resume a job that is queued; allowed now: cancel" in result.stderr


def test_wait_goes_on_waiting_for_a_paused_job_and_says_what_it_waits_for(gradq, api):
    job_id = api.submit()
    lease = api.start()
    api.client.job(job_id).pause()
    api.release(lease)
    result = gradq("wait", job_id, "--timeout", "0.5")
    assert result.exit_code == 124
    assert result.stderr.count(f"gradq resume {job_id}") == 1


# --- dry runs, presets ------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_the_job_would_cost_and_queues_nothing(gradq, api):
    result = gradq("submit", "--dry-run", "--architecture", "cnn", "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("13 706 parameters, 46 steps, about ")
    assert json.loads(gradq("submit", "--dry-run", "--json").stdout)["object"] == "dry_run"
    assert gradq("submit", "--dry-run", "--lr", "0").exit_code == 2
    assert api.client.page()["data"] == []


def test_a_preset_is_listed_submitted_and_shown_beside_the_article(gradq, api):
    listed = gradq("presets").stdout
    assert "article/two-layer\n" in listed
    assert "needs --init-from ID, the id of a finished article/manual-linear" in listed
    assert len(json.loads(gradq("presets", "--json").stdout)["data"]) == 6
    job = json.loads(gradq("submit", "--preset", "article/two-layer", "--epochs", "2", "--json").stdout)
    assert (job["spec"]["preset"], job["spec"]["lr"], job["spec"]["epochs"]) == ("article/two-layer", 0.001, 2)
    lease = api.start()
    api.point(lease, 938, 1, train_loss=21.5, val_accuracy=0.9)
    api.point(lease, 1876, 2, train_loss=12.25, val_accuracy=0.95)
    shown = [line.split() for line in gradq("show", job["id"]).stdout.splitlines()]
    assert ["figure", "article", "ours"] in shown
    assert ["last", "val_accuracy", "0.9674", "0.95"] in shown
    assert ["first", "train_loss", "21.64", "21.5"] in shown
    assert ["last", "train_loss", "1.24", "12.25"] in shown
    assert not any("untrained_accuracy" in line for line in shown)  # measured, and known when the job has ended
    api.finish(lease, untrained_accuracy=0.0625)
    shown = [line.split() for line in gradq("show", job["id"]).stdout.splitlines()]
    assert ["untrained_accuracy", "0.1002", "0.0625"] in shown


def test_a_preset_that_goes_on_names_what_is_missing(gradq):
    result = gradq("submit", "--preset", "article/sgd")
    assert result.exit_code == 2
    assert "init_from.job: this preset continues article/basic-optimizer" in result.stderr


def test_init_from_names_the_job_whose_weights_are_taken(gradq, api):
    first = json.loads(gradq("submit", "--json").stdout)
    api.finish(api.start(), files={"model.safetensors": b"weights"})
    on = json.loads(gradq("submit", "--init-from", first["id"], "--lr", "0.01", "--json").stdout)
    assert on["spec"]["init_from"] == {"job": first["id"]}
    assert "init_from" not in first["spec"] or first["spec"]["init_from"] is None
    for options in (("--init-from", "job_0"), ("--init-from", "x"), ("--init-from", ""), ("--init-from", on["id"])):
        refused = gradq("submit", *options)
        assert refused.exit_code == 2, options
        assert "init_from" in refused.stderr


# --- reproduce, check -------------------------------------------------------------------------------------------------


def finish_soon(api, **result):
    """Ends the next submitted job from another thread."""

    def finish():
        wait_for(lambda: api.client.page(status="queued")["data"], 20, "a queued job")
        api.finish(api.start(), **result)

    thread = threading.Thread(target=finish)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("reproduction", "code", "words"),
    [
        ({"identical": True, "first_difference": None}, 0, "identical to job_0"),
        (
            {
                "identical": False,
                "first_difference": {"step": 50, "metric": "train_loss", "expected": 2.5, "found": None},
                "environment_differences": {"torch": {"expected": "2.13", "found": "2.14"}},
            },
            1,
            "differs from job_0 first at step 50: train_loss 2.5 there, nothing here\n  torch: 2.13 there, 2.14 here",
        ),
        ({"identical": None, "first_difference": None, "detail": "job_0 has been deleted"}, 1, "not compared"),
    ],
)
def test_reproduce_waits_for_the_verdict_and_exits_by_it(gradq, api, reproduction, code, words):
    original = api.ended()
    timer = finish_soon(api, reproduction={"of": "job_0", "environment_differences": {}, **reproduction})
    result = gradq("reproduce", original, "--wait", "--timeout", "30")
    timer.join()
    assert (result.exit_code, words in result.stdout) == (code, True), result.output
    newest = api.client.page()["data"][0]
    assert newest["reproduces"] == original
    assert "reproduc" in gradq("show", newest["id"]).stdout


def test_reproduce_without_waiting_prints_the_new_job(gradq, api):
    result = gradq("reproduce", api.ended(name="first"))
    assert (result.exit_code, "queued  first reproduced" in result.stdout) == (0, True)
    assert gradq("reproduce", api.submit()).exit_code == 1


CHECK = {
    "passed": False,
    "max_relative_error": 0.5,
    "dtype": "float64",
    "tolerance": 1e-9,
    "finite_differences": {"tolerance": 1e-6},
    "parameters": {
        "1.weight": {
            "shape": [30, 64],
            "max_relative_error": 1e-15,
            "finite_differences": {"max_relative_error": 1e-8},
        },
        "1.bias": {"shape": [30], "max_relative_error": 0.5, "finite_differences": {"max_relative_error": 0.5}},
    },
}


def test_check_prints_the_table_parameter_by_parameter_also_of_a_failure(gradq, api):
    timer = finish_soon(api, state=JobState.FAILED, passed=False, gradient_check=CHECK)
    result = gradq("check", "--architecture", "mlp", "--set", "batches=1", "--wait", "--timeout", "30")
    timer.join()
    assert result.exit_code == 1, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["1.weight", "30x64", "1.0e-15", "1.0e-08", "pass"] in lines
    assert ["1.bias", "30", "5.0e-01", "5.0e-01", "FAIL"] in lines
    job = api.client.page()["data"][0]
    assert (job["kind"], job["spec"]["batches"]) == ("gradient_check", 1)
    shown = gradq("show", job["id"]).stdout
    assert "against autograd and finite differences, 1 batches of 8" in shown
    assert "FAIL" in shown


def test_a_check_among_other_jobs_is_listed_and_watched_like_them(gradq, api):
    job_id = json.loads(gradq("check", "--json").stdout)["id"]
    assert gradq("ps").stdout.splitlines()[1].split()[3:5] == ["check", "-/3"]
    api.finish(api.start(), gradient_check={**CHECK, "passed": True})
    assert gradq("watch", job_id).exit_code == 0
    assert gradq("check", "--set", "batches=0").exit_code == 2


def test_a_walk_among_other_jobs_is_listed_shown_and_watched_like_them(gradq, api):
    job_id = api.client.walk(architecture="linear", batch=3).id
    assert gradq("ps").stdout.splitlines()[1].split()[3:5] == ["walk", "-/1"]
    result = {"agrees": True, "loss": 2.3, "stages": 7, "max_relative_difference": 2.5e-16, "parameters": 650}
    api.finish(api.start(), **result)
    assert gradq("watch", job_id).exit_code == 0
    shown = gradq("show", job_id).stdout
    assert "linear on digits, stage by stage" in shown
    assert "batch 3 of the order, 8 examples" in shown
    assert "manual and autograd agree in 7 stages (largest relative difference 2.5e-16)" in shown


def test_a_folder_that_cannot_be_written_is_said_without_a_traceback(gradq, api):
    job_id = api.submit(epochs=1)
    api.finish(api.start(), files={"spec.json": b"{}"})
    refused = gradq("download", job_id, "-o", "/proc/nowhere")
    assert (refused.exit_code, refused.stderr) == (1, "gradq: /proc/nowhere: No such file or directory\n")
    problem = json.loads(gradq("download", job_id, "-o", "/proc/nowhere", "--json").stderr)
    assert problem["code"] == "os_error"


def test_names_are_shown_where_the_terminal_has_no_letters_for_them(api):
    job_id = api.submit(name="ü☃", epochs=1)
    ascii = {**os.environ, "PYTHONIOENCODING": "ascii", "GRADQ_URL": api.url}
    words, as_json = (
        subprocess.run([sys.executable, "-m", "gradq", "ps", *more], env=ascii, capture_output=True, text=True)
        for more in ((), ("--json",))
    )
    assert (words.returncode, as_json.returncode) == (0, 0), words.stderr + as_json.stderr
    assert job_id in words.stdout
    assert json.loads(as_json.stdout)["data"][0]["name"] == "ü☃"
