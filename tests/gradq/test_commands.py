"""The verbs against the real API: what they print, and what a script can tell from the exit code."""

from __future__ import annotations

import io
import json
import socket
import threading
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gradq.cli import app
from gradq.watch import draw_live
from shared.states import JobState


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
    assert api.client.jobs()["data"] == []


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


def test_nobody_there_asks_whether_gradq_is_up():
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
    assert gradq("ps", "--url", "nonsense").exit_code == 1


@pytest.mark.parametrize(
    "verb", ["", "up", "submit", "ps", "wait", "watch", "download", "predict", "api", "worker", "migrate"]
)
def test_help_fits_80_columns(gradq, verb):
    result = gradq(*([verb] if verb else []), "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert verb != "" or "demo" not in result.stdout


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
