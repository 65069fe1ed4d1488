"""A checkpoint file is always complete, holds no code, and is read back before it is reported."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from shared.datasets.catalog import DATASETS
from shared.errors import TrainingError
from shared.events import CheckpointSaved
from shared.spec.job_spec import Checkpointing, JobSpec
from worker.trainer import checkpoint
from worker.trainer.checkpoint import Checkpointer
from worker.trainer.step.state import State

CPU = torch.device("cpu")


@pytest.fixture
def state():
    return State(JobSpec.parse({"seed": 7, "optimizer": "adam"}), DATASETS["digits"], CPU)


@pytest.fixture
def path(tmp_path, state):
    checkpoint.save(tmp_path / "1.pt", state, {"seed": 7})
    return tmp_path / "1.pt"


def test_what_is_saved_comes_back(path, state):
    loaded = checkpoint.load(path)
    assert loaded["spec"] == {"seed": 7}
    assert loaded["place"] == {"epoch": 1, "batch": 0, "step": 0}
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(loaded["model"][name], tensor), name
    assert torch.equal(loaded["rng"], torch.get_rng_state())
    assert os.listdir(path.parent) == ["1.pt"]  # no temporary file is left


@pytest.mark.parametrize("step", ["torch.save", "os.fsync", "checkpoint.load"])
def test_a_save_that_fails_leaves_the_file_before_it_untouched(path, state, monkeypatch, step):
    before = path.read_bytes()
    save = torch.save

    def cut_short(value, file):
        save(value, file)
        file.truncate(1000)
        raise OSError(28, "No space left on device")

    def fail(*_):
        raise OSError(28, "No space left on device")

    place, name = {"torch.save": (torch, "save"), "os.fsync": (os, "fsync"), "checkpoint.load": (checkpoint, "load")}[
        step
    ]
    monkeypatch.setattr(place, name, cut_short if step == "torch.save" else fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, state, {"seed": 8})
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, state, monkeypatch):
    synced, fsync = [], os.fsync

    def watch(descriptor):
        synced.append(sorted(os.listdir(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    checkpoint.save(tmp_path / "2.pt", state, {})
    assert synced[0] == ["2.pt.part"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_disk_that_cannot_be_used_costs_the_checkpoint_and_not_the_training(tmp_path, state, monkeypatch, number):
    def no_room(_):
        raise OSError(number, os.strerror(number))

    said = []
    checkpoints = Checkpointer(Checkpointing(), {}, tmp_path, said.append)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        checkpoints.save(state)
    what = "is full" if number in (errno.ENOSPC, errno.EDQUOT) else "cannot be used"
    why = f"the disk {what}: OSError: [Errno {number}] {os.strerror(number)}, in {tmp_path / '0.pt'}"
    assert (said[-1].level, said[-1].message) == ("warning", f"the checkpoint at step 0 could not be written: {why}")
    assert os.listdir(tmp_path) == []  # half a file would keep the disk full
    checkpoints.save(state)
    assert isinstance(said[-1], CheckpointSaved)


def test_no_checkpoint_is_due_while_the_disk_of_the_last_one_gives_no_answer(tmp_path, state, monkeypatch):
    checkpoints = Checkpointer(Checkpointing(every_seconds=1e-9), {}, tmp_path, [].append, stored=True)
    monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 0.0)
    checkpoints.save(state)
    (tmp_path / "0.pt").unlink()
    assert checkpoints.due()

    def gone(_):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(Path, "exists", gone)
    assert not checkpoints.due()


@pytest.mark.parametrize("length", [0, 10, 0.5, -1])
def test_a_torn_file_is_refused(path, length):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * length) if isinstance(length, float) else length])
    with pytest.raises(TrainingError, match="1.pt cannot be read"):
        checkpoint.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="9.pt cannot be read"):
        checkpoint.load(tmp_path / "9.pt")


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch, way):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # changes torch's default, not our explicit argument
    content = {"format": checkpoint.FORMAT, "model": Trap(str(tmp_path / "sprung"))}
    path = tmp_path / "1.pt"
    if way == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.load(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{}, {"format": 99}, [1, 2], torch.zeros(3)], ids=str)
def test_a_file_of_another_format_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "1.pt")
    with pytest.raises(TrainingError, match="1.pt"):
        checkpoint.load(tmp_path / "1.pt")


@pytest.mark.parametrize(
    "other", [{"architecture": "linear"}, {"architecture": {"type": "mlp", "hidden": [31]}}], ids=str
)
def test_a_checkpoint_of_another_net_is_refused(path, other):
    with pytest.raises(TrainingError, match="does not fit the spec"):
        State(JobSpec.parse({"seed": 7, **other}), DATASETS["digits"], CPU).load_state_dict(checkpoint.load(path))


# --- when -------------------------------------------------------------------------------------------------------------


def checkpointer(folder, events=None, **wish):
    return Checkpointer(Checkpointing(**wish), {}, folder, (events if events is not None else []).append)


def test_a_checkpoint_is_due_when_its_seconds_have_gone_by(tmp_path, state):
    assert not checkpointer(tmp_path, every_seconds=3600.0).due()
    assert not checkpointer(tmp_path, every_seconds=None).due()
    quick = checkpointer(tmp_path, every_seconds=1e-9)
    assert quick.due()
    patient = checkpointer(tmp_path, every_seconds=3600.0)
    patient.saved_at -= 3601
    assert patient.due()
    patient.save(state)
    assert not patient.due()


def test_a_checkpoint_is_due_after_the_epochs_that_were_asked_for(tmp_path):
    third = checkpointer(tmp_path, every_seconds=None, every_epochs=3)
    assert [epoch for epoch in range(1, 10) if third.due_after_epoch(epoch)] == [3, 6, 9]
    assert not any(checkpointer(tmp_path, every_seconds=None).due_after_epoch(epoch) for epoch in range(1, 10))
    assert checkpointer(tmp_path, every_seconds=1e-9).due_after_epoch(1)


def test_saving_is_reported_with_a_file_that_is_there(tmp_path, state):
    events = []
    state.step, state.epoch = 12, 3
    checkpointer(tmp_path / "new", events).save(state)
    (event,) = events
    assert (type(event), event.step, event.epoch) == (CheckpointSaved, 12, 3)
    assert checkpoint.load(tmp_path / "new" / "12.pt")["place"]["step"] == 12
    assert event.path == str(tmp_path / "new" / "12.pt")
