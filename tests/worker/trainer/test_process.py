"""The process of one job, forked by the real launcher: its start, how it ends, and that it ends with its supervisor."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import asdict
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import psutil
import pytest
import torch
from support.disk import SmallDisk, why_no_disks
from support.postgres import part_missing
from support.waiting import wait_for

from shared.errors import DataError, GradientCheckFailed
from shared.events import CheckpointSaved, Failed, Finished, Log, Metric, Stopped
from shared.spec.job_spec import GradientCheckSpec, JobSpec, Linear
from worker.launcher import Launcher, enter
from worker.plan import Plan
from worker.trainer import checkpoint, process
from worker.trainer.process import code_of, outcome_of

if not os.path.isdir("/proc/self/task"):
    pytest.skip("reads /proc", allow_module_level=True)

FOR_EVER = {"epochs": 10_000, "checkpoint": {"every_seconds": None, "keep_best": False}}


def plan(folder, data_dir="nowhere", device="cpu", **fields):
    spec = JobSpec.parse({"seed": 7, "epochs": 2, **fields})
    return asdict(
        Plan(
            spec=spec.to_json(),
            folder=str(folder),
            data_dir=str(data_dir),
            download=False,
            device=device,
            gpu_uuid=None,
            threads=1,
        )
    )


@pytest.fixture(scope="module")
def launcher():
    launcher = Launcher()
    launcher.warm_up()
    return launcher


@pytest.fixture
def start(launcher):
    """start(plan): a trainer, killed at the end of the test if it is still there."""
    trainers = []

    def start(wanted):
        trainers.append(launcher.start(Plan(**wanted)))
        return trainers[-1]

    yield start
    for trainer in trainers:
        trainer.kill()
        trainer.process.join(10)
        trainer.pipe.close()


def events_of(trainer, until=None, seconds=60):
    """Its events, to the end of the pipe or to the first event of the type `until`."""
    events = []
    while trainer.pipe.poll(seconds):
        try:
            events.append(trainer.pipe.recv())
        except EOFError:
            return events
        if until is not None and isinstance(events[-1], until):
            return events
    raise AssertionError(f"nothing reported for {seconds} s")


# --- start ------------------------------------------------------------------------------------------------------------


def test_a_trainer_begins_with_one_thread(start, tmp_path):
    trainer = start(plan(tmp_path))
    (first,) = events_of(trainer, until=Log)
    assert first.message == "trainer started"
    assert first.data == {"pid": trainer.process.pid, "threads_at_entry": 1}


def in_a_fork(launcher, code: str) -> Any:
    """What `code`, in a process forked from the server, sends over `pipe`."""
    ours, theirs = launcher._context.Pipe(duplex=False)
    process = launcher._context.Process(target=exec, args=(code, {"pipe": theirs}))
    process.start()
    theirs.close()
    assert ours.poll(30)
    found = ours.recv()
    process.join()
    return found


def test_torch_and_all_that_a_job_imports_are_there_before_the_fork(launcher):
    names = ["torch", "worker.trainer.process", "matplotlib.figure", "numpy.random", "PIL.ImageFont"]
    code = f"import sys; pipe.send([name for name in {names} if name not in sys.modules])"
    assert in_a_fork(launcher, code) == []


def test_the_server_has_nothing_that_no_job_or_only_few_jobs_import(launcher):
    """The start of a worker would wait for it, and its memory would stay for as long as the worker lives."""
    names = ["torch._dynamo", "torch._inductor", "sympy", "sklearn", "torchvision", "sqlalchemy", "celery"]
    assert in_a_fork(launcher, f"import sys; pipe.send([name for name in {names} if name in sys.modules])") == []


def test_the_collector_of_a_forked_process_works_and_leaves_what_the_server_has_imported(launcher):
    enabled, frozen = in_a_fork(launcher, "import gc; pipe.send((gc.isenabled(), gc.get_freeze_count()))")
    assert enabled
    assert frozen > 100_000


def test_the_server_holds_no_pages_of_program_code_that_only_its_start_has_read(launcher):
    launcher.warm_up()
    server = psutil.Process(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
    code = [region for region in server.memory_maps() if region.path.startswith("/")]
    assert sum(region.rss - region.anonymous for region in code) < 40 << 20  # 90 MB before they are unmapped


@pytest.mark.parametrize("code", [0, 1, 3, 7, 250])
def test_a_process_of_the_server_ends_with_its_own_code(launcher, code):
    """Although the server itself ends at once, without unloading what it has imported."""
    process = launcher._context.Process(target=exec, args=(f"import sys; sys.exit({code})", {}))
    process.start()
    process.join(30)
    assert process.exitcode == code


def test_a_trainer_leads_a_group_of_its_own_and_offers_itself_to_the_oom_killer(start, tmp_path):
    trainer = start(plan(tmp_path, **FOR_EVER))
    events_of(trainer, until=Metric)
    pid = trainer.process.pid
    assert os.getpgid(pid) == os.getsid(pid) == pid != os.getpgid(0)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "800"


@pytest.mark.parametrize(("hidden", "used"), [(30, 1), (8192, 2)])
def test_a_trainer_uses_the_threads_it_was_given_where_a_step_is_worth_them(start, tmp_path, hidden, used):
    trainer = start({**plan(tmp_path, architecture={"type": "mlp", "hidden": [hidden]}), "threads": 2})
    assert events_of(trainer)[-1].result["environment"]["threads"] == used


# --- how it ends ------------------------------------------------------------------------------------------------------


def test_a_job_that_is_done_reports_its_result_last_and_its_files_are_there(start, tmp_path):
    trainer = start(plan(tmp_path, gradients="manual"))
    *_, last = events_of(trainer)
    assert isinstance(last, Finished)
    assert last.result["gradient_check"]["passed"] is True
    assert (tmp_path / "artifacts" / "model.safetensors").is_file()
    trainer.process.join(10)
    assert trainer.process.exitcode == 0
    assert not trainer.alive()


def test_a_forked_trainer_ends_with_the_weights_of_one_that_runs_here(start, tmp_path, training):
    from worker.trainer.results import weights_sha256

    forked = events_of(start(plan(tmp_path, epochs=2)))[-1].result
    assert forked["weights_sha256"] == weights_sha256(training(epochs=2).run().state.model)


def test_sigterm_saves_a_checkpoint_and_stops_at_a_step(start, tmp_path):
    trainer = start(plan(tmp_path, **FOR_EVER))
    events_of(trainer, until=Metric)
    trainer.request_stop()
    events = events_of(trainer)
    saved, stopped = events[-2:]
    assert isinstance(saved, CheckpointSaved)
    assert isinstance(stopped, Stopped)
    assert saved.step == stopped.step > 0
    assert checkpoint.load(Path(saved.path))["place"]["step"] == stopped.step
    trainer.process.join(10)
    assert trainer.process.exitcode == 0


def test_sigterm_before_the_first_step_stops_it_as_well(start, tmp_path):
    trainer = start(plan(tmp_path, **FOR_EVER))
    events_of(trainer, until=Log)
    trainer.request_stop()
    assert isinstance(events_of(trainer)[-1], Stopped)


def test_a_stopped_job_goes_on_in_another_process_to_the_same_weights(start, tmp_path):
    fields = {"epochs": 60, "checkpoint": {"every_seconds": None}}
    trainer = start(plan(tmp_path / "1", **fields))
    events_of(trainer, until=Metric)
    trainer.request_stop()
    saved = next(e for e in events_of(trainer) if isinstance(e, CheckpointSaved))
    assert saved.step < 60 * 23
    resumed = events_of(start({**plan(tmp_path / "2", **fields), "resume": saved.path}))
    unbroken = events_of(start(plan(tmp_path / "3", **fields)))
    assert resumed[-1].result["weights_sha256"] == unbroken[-1].result["weights_sha256"]


def test_ctrl_c_in_the_terminal_is_not_for_the_trainer(start, tmp_path):
    trainer = start(plan(tmp_path, **FOR_EVER))
    events_of(trainer, until=Metric)
    os.kill(trainer.process.pid, 2)
    events_of(trainer, until=Metric)  # it continues
    assert trainer.alive()


def test_a_killed_trainer_is_the_end_of_its_pipe(start, tmp_path):
    trainer = start(plan(tmp_path, **FOR_EVER))
    events_of(trainer, until=Metric)
    trainer.kill()
    assert not [e for e in events_of(trainer) if isinstance(e, Finished | Stopped | Failed)]
    trainer.process.join(10)
    assert trainer.process.exitcode == -9
    assert not trainer.alive()
    trainer.kill()  # a second stop does nothing


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"dataset": "mnist"}, "data_error", "train-images-idx3-ubyte"),
        ({"lr": 1e12, "architecture": {"type": "mlp", "hidden": [30, 30]}}, "diverged", "try a smaller lr"),
    ],
    ids=["data_error", "diverged"],
)
def test_a_job_that_fails_says_why(start, tmp_path, fields, code, words):
    trainer = start(plan(tmp_path, **fields))
    failed = events_of(trainer)[-1]
    assert isinstance(failed, Failed)
    assert failed.code == code
    assert words in failed.message
    assert failed.data
    assert failed.traceback == ""  # only an internal error has one


def test_an_error_of_ours_brings_its_traceback(start, tmp_path):
    (tmp_path / "file").touch()
    failed = events_of(start(plan(tmp_path / "file" / "run")))[-1]  # a folder that cannot be made
    assert isinstance(failed, Failed)
    assert failed.code == "internal_error"
    assert "NotADirectoryError" in failed.message
    assert "Traceback" in failed.traceback


def test_a_job_for_any_device_in_a_slot_of_the_cpu_trains_on_the_cpu(start, tmp_path):
    assert events_of(start(plan(tmp_path, epochs=1)))[-1].result["device"] == "cpu"


def test_running_out_of_memory_has_a_code_of_its_own():
    assert code_of(torch.OutOfMemoryError("CUDA")) == "out_of_memory_gpu"
    assert code_of(MemoryError()) == "out_of_memory_host"
    assert code_of(ValueError()) == "internal_error"
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)  # more than any host has: torch has no exception class for it
    assert code_of(refused.value) == "out_of_memory_host"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO])
@pytest.mark.parametrize("wrapped", [False, True], ids=["raised", "in a TrainingError"])
def test_a_disk_that_cannot_be_used_is_no_fault_of_the_job(tmp_path, monkeypatch, number, wrapped):
    def broken(*_, **__):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            if wrapped:
                raise DataError("train_images.npy cannot be read") from error
            raise

    monkeypatch.setattr(process, "run_job", broken)
    failed = outcome_of(JobSpec.parse({}), Plan(**plan(tmp_path)), threading.Event(), SimpleNamespace(send=None))
    assert isinstance(failed, Failed)
    assert failed.code == "disk_full"
    if not wrapped:
        assert failed.message == f"OSError: [Errno {number}] {os.strerror(number)}, in {tmp_path}"


def test_a_run_folder_that_becomes_read_only_costs_checkpoints_and_then_the_attempt(tmp_path):
    if (why := why_no_disks()) is not None:
        part_missing(why)
    disk, sent = SmallDisk(tmp_path / "disk", 1), []
    try:
        for name in ("checkpoints", "artifacts"):  # what is met first is a file, and not its folder
            (disk.path / name).mkdir()
        assert disk.try_to_protect()
        spec = JobSpec.parse({"epochs": 1, "checkpoint": {"every_epochs": 1}})
        failed = outcome_of(spec, Plan(**plan(disk.path)), threading.Event(), SimpleNamespace(send=sent.append))
    finally:
        disk.unmount()
    (warning,) = [event.message for event in sent if isinstance(event, Log) and event.level == "warning"]
    why = f"the disk cannot be used: OSError: [Errno 30] Read-only file system: '{disk.path}/checkpoints/"
    assert warning.startswith("the checkpoint at step 23 could not be written: " + why)
    assert isinstance(failed, Failed)
    assert failed.code == "disk_full"
    assert "Read-only file system (os error 30)" in failed.message  # safetensors' text
    assert str(disk.path) in failed.message


# --- the supervisor's side --------------------------------------------------------------------------------------------

SUPERVISOR = textwrap.dedent(
    """
    import json, sys
    from worker.launcher import Launcher
    from worker.plan import Plan
    launcher = Launcher()
    launcher.warm_up()
    trainer = launcher.start(Plan(**json.loads(sys.argv[1])))
    reported = []
    while True:
        try:
            reported.append(trainer.pipe.recv())
        except EOFError:
            break
        if type(reported[-1]).__name__ == sys.argv[2]:
            print(trainer.process.pid, flush=True)
            sys.stdin.read()
    trainer.process.join()
    last = type(reported[-1]).__name__
    print(json.dumps({"last": last, "torch": [name for name in sys.modules if name.split(".")[0] == "torch"]}))
    """
)


def test_the_supervisor_s_process_never_imports_torch(tmp_path):
    command = [sys.executable, "-c", SUPERVISOR, json.dumps(plan(tmp_path, gradients="manual")), "nothing"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"last": "Finished", "torch": []}  # not even by unpickling its arguments


@pytest.mark.parametrize("doing", ["training", "reading a file that does not come"])
def test_a_supervisor_that_is_killed_takes_its_trainer_along(tmp_path, doing):
    wanted, after = plan(tmp_path, **FOR_EVER), "Metric"
    if doing != "training":  # it sends no events, so it meets no broken pipe: only the orphan guard ends it
        os.mkfifo(tmp_path / "resume.pt")
        wanted, after = {**wanted, "resume": str(tmp_path / "resume.pt")}, "Log"
    command = [sys.executable, "-c", SUPERVISOR, json.dumps(wanted), after]
    supervisor = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        trainer = psutil.Process(int(supervisor.stdout.readline()))
        assert trainer.is_running()
    finally:
        supervisor.kill()
        supervisor.wait()
        supervisor.stdin.close()
        supervisor.stdout.close()  # not closed: the trainer holds the other end

    def gone():
        return not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE

    try:
        wait_for(gone, 30, "the end of an orphaned trainer")
    finally:
        if not gone():
            trainer.kill()


def test_the_entry_of_the_forked_process_is_importable_by_name():
    """It is pickled by its name, which a lambda or a nested function does not have."""
    assert enter.__qualname__ == "enter"
    assert enter.__module__ == "worker.launcher"


# --- kinds ------------------------------------------------------------------------------------------------------------


def outcome(folder, spec, **more):
    wanted = Plan(**{**plan(folder), "spec": spec.to_json(), "kind": spec.kind, **more})
    return outcome_of(spec, wanted, threading.Event(), SimpleNamespace(send=lambda event: None))


def test_a_gradient_check_goes_to_the_part_that_is_imported_when_one_comes(tmp_path, monkeypatch):
    seen = {}

    def run_check(spec, run, report, **where):
        seen.update(spec=spec, folder=run.folder, **where)
        return {"passed": True}

    monkeypatch.setitem(sys.modules, "worker.trainer.gradient_check_job", SimpleNamespace(run_check=run_check))
    spec = GradientCheckSpec.parse({"batches": 2, "device": "cuda"})
    assert outcome(tmp_path, spec) == Finished(result={"passed": True}, at=ANY)
    assert (seen["spec"].batches, seen["spec"].device) == (2, "cpu")  # that of the slot, not the requested one
    assert (seen["folder"], seen["data_dir"], seen["threads"]) == (tmp_path, Path("nowhere"), 1)


def test_a_check_that_fails_ends_with_its_table(tmp_path, monkeypatch):
    def run_check(*_, **where):
        raise GradientCheckFailed("0.weight differs", gradient_check={"passed": False})

    monkeypatch.setitem(sys.modules, "worker.trainer.gradient_check_job", SimpleNamespace(run_check=run_check))
    failed = outcome(tmp_path, GradientCheckSpec.parse({}))
    assert (failed.code, failed.data) == ("gradient_check_failed", {"gradient_check": {"passed": False}})


def test_weights_to_begin_with_are_those_that_the_training_begins_with(tmp_path):
    spec = JobSpec.parse({"seed": 1, "epochs": 1, "lr": 1e-9, "checkpoint": {"keep_best": False}})
    first = outcome(tmp_path / "first", spec.model_copy(update={"lr": 0.5, "epochs": 5}))
    saved = tmp_path / "first" / "artifacts" / "model.safetensors"
    begun = outcome(tmp_path / "begun", spec, init_from=str(saved))
    assert begun.result["val_loss"] == pytest.approx(first.result["val_loss"], rel=1e-3)
    refused = outcome(tmp_path / "refused", spec.model_copy(update={"architecture": Linear()}), init_from=str(saved))
    assert "1.weight is [30, 64] there and [10, 64] here" in refused.message
