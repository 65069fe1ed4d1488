"""The examples held out for validation: the same share of each class, and every class keeps one to train on."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from shared.errors import DataError, TrainingError
from shared.spec.job_spec import JobSpec
from worker.trainer import checkpoint, seeds
from worker.trainer.data import datasets
from worker.trainer.data.split_methods import RANDOM, STRATIFIED, TEST
from worker.trainer.data.splits import split, warnings_about
from worker.trainer.job import run_job
from worker.trainer.run import Run, StopRequested

RARE = torch.tensor([0] * 60 + [1] * 60 + [2])
NAMES = ("ok", "scratch", "crack")


def labels_of(*counts: int) -> torch.Tensor:
    """Labels in a fixed random order: `counts[i]` of class i."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("counts", [(100, 100), (500, 300, 200), (50, 30, 20, 900), (1000,), (10,) * 100])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_class_gives_the_same_share(counts, fraction):
    labels = labels_of(*counts)
    train, val = split(labels, fraction, seed=7)
    assert sorted(torch.cat([train, val]).tolist()) == list(range(len(labels)))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(val, val.sort().values)
    assert len(val) == round(len(labels) * fraction)
    shares = labels[val].bincount(minlength=len(counts)) - torch.tensor(counts) * fraction
    assert shares.abs().max() <= 1


@pytest.mark.parametrize("counts", [(60, 60, 1), (1, 60, 60), (60, 1, 1, 1, 60), (9, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("seed", range(20))
def test_a_rare_class_keeps_an_example_to_train_on_and_as_many_are_held_out(counts, seed):
    labels = labels_of(*counts)
    train, val = split(labels, 0.1, seed)
    assert labels[train].bincount(minlength=len(counts)).min() >= 1
    assert len(val) == round(len(labels) * 0.1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.floats(0.001, 0.999), st.integers(0, 2**63 - 1))
def test_of_any_classes_all_are_trained_on_and_none_is_in_both_splits(counts, fraction, seed):
    labels = labels_of(*counts)
    try:
        train, val = split(labels, fraction, seed)
    except DataError:
        assert max(counts) == 1
        return
    assert sorted(torch.cat([train, val]).tolist()) == list(range(len(labels)))
    assert labels[train].bincount(minlength=len(counts)).min() >= 1
    assert len(val) == min(round(len(labels) * fraction), len(labels) - len(counts))


def test_the_split_is_a_pure_function_of_labels_share_and_seed():
    labels = labels_of(300, 200)
    assert all(torch.equal(a, b) for a, b in zip(split(labels, 0.2, 3), split(labels, 0.2, 3), strict=True))
    assert not torch.equal(split(labels, 0.2, 3)[1], split(labels, 0.2, 4)[1])


def test_a_dataset_with_one_example_of_each_class_has_none_to_hold_out():
    with pytest.raises(DataError, match="set validation to 'test'"):
        split(torch.arange(10), 0.1, seed=1)


def test_the_streams_of_earlier_versions_give_their_split():
    shuffled = torch.randperm(121, generator=torch.Generator().manual_seed(seeds.derive(5, "split")))
    train, val = split(RARE, 0.1, 5, seeds.LOW_BITS)
    assert torch.equal(val, shuffled[:12].sort().values)
    assert torch.equal(train, shuffled[12:].sort().values)


# --- what is said about a split ---------------------------------------------------------------------------------------


def test_a_class_without_a_validation_image_is_named():
    train, val = split(RARE, 0.1, seed=5)
    (warning,) = warnings_about(RARE[train], RARE[val], 0.1, NAMES)
    assert "no image is held out for validation of the class 'crack'" in warning


def test_a_class_without_an_image_to_train_on_is_named():
    (warning,) = warnings_about(labels_of(9, 9), None, 0.0, NAMES)
    assert warning == "no image to train on for the class 'crack': the model cannot learn it"


def test_fewer_held_out_than_requested_are_said():
    labels = labels_of(5, 5, 5)
    train, val = split(labels, 0.9, seed=1)
    (warning,) = warnings_about(labels[train], labels[val], 0.9, NAMES)
    assert "12 images are held out for validation instead of 14" in warning


def test_of_very_many_classes_some_are_named():
    labels = labels_of(*[1] * 50, 500)
    train, val = split(labels, 0.1, seed=1)
    (warning,) = warnings_about(labels[train], labels[val], 0.1, [f"c{i}" for i in range(51)])
    assert "'c9' and 40 more" in warning


@pytest.mark.parametrize("counts", [(60, 60), (10, 10, 10)])
def test_nothing_is_said_about_a_split_that_covers_all_classes(counts):
    labels = labels_of(*counts)
    train, val = split(labels, 0.1, seed=5)
    assert warnings_about(labels[train], labels[val], 0.1, NAMES[: len(counts)]) == []


# --- checkpoints of earlier versions ----------------------------------------------------------------------------------

SPEC = JobSpec.parse({"seed": 7, "epochs": 2, "batch_size": 200, "architecture": "linear", "lr": 0.1})


def run(folder, resume=None, stop=False):
    return run_job(
        SPEC,
        Run(folder, resume, stop_requested=lambda: stop),
        lambda event: None,
        data_dir=folder,
        download=False,
        threads=1,
    )


def test_a_run_resumed_from_a_checkpoint_of_an_earlier_version_keeps_its_split(tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr("worker.trainer.seeds.STREAMS", seeds.LOW_BITS)
        whole = run(tmp_path / "whole")
        with pytest.raises(StopRequested):
            run(tmp_path / "cut", stop=True)
    (saved,) = (tmp_path / "cut" / "checkpoints").glob("*.pt")
    content = torch.load(saved, weights_only=True)
    assert content.pop("streams") == seeds.LOW_BITS
    torch.save(content, saved)  # as versions up to 0.2.0 wrote it
    resumed = run(tmp_path / "cut", resume=saved)
    assert resumed["validation_split"] == whole["validation_split"] == RANDOM
    for name in ("data_order_sha256", "weights_sha256", "val_loss"):
        assert resumed[name] == whole[name]
    new = run(tmp_path / "new")
    assert new["validation_split"] == STRATIFIED
    assert new["data_order_sha256"] != whole["data_order_sha256"]


def test_a_checkpoint_with_streams_of_a_later_version_is_refused(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "streams": 17}, tmp_path / "1.pt")
    with pytest.raises(TrainingError, match="version 17"):
        checkpoint.streams_of(tmp_path / "1.pt")


@pytest.mark.parametrize(
    ("validation", "streams", "method"),
    [
        ("test", seeds.STREAMS, TEST),
        ("test", seeds.LOW_BITS, TEST),
        ({"fraction": 0.1}, seeds.STREAMS, STRATIFIED),
        ({"fraction": 0.1}, seeds.LOW_BITS, RANDOM),
    ],
)
def test_data_says_how_its_validation_split_was_chosen(validation, streams, method):
    spec = JobSpec.parse({"seed": 7, "validation": validation})
    data = datasets.prepare(spec, None, False, torch.device("cpu"), None, streams)
    assert (data.validation_split, data.streams) == (method, streams)
