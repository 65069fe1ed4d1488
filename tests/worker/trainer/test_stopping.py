"""A run ends when its metric has not improved for as many epochs as its spec allows, and not before."""

import pytest

from shared.events import Log, Metric
from shared.spec.job_spec import EarlyStopping
from worker.trainer.history import History
from worker.trainer.stopping import has_stalled


def history(name, values):
    made = History()
    for i, value in enumerate(values, 1):
        made.add(Metric(series="epoch", step=i, epoch=i, values={name: value}))
    return made


@pytest.mark.parametrize(
    ("values", "stalled"),
    [
        ([], False),
        ([1.0, 0.9, 0.8], False),
        ([1.0, 0.9, 0.95], False),
        ([1.0, 0.9, 0.95, 0.92], True),
        ([1.0, 0.9, 0.95, 0.89], False),
        ([1.0, 1.0, 1.0], True),
    ],
)
def test_a_loss_that_has_not_fallen_for_two_epochs_has_stalled(values, stalled):
    assert has_stalled(EarlyStopping(patience_epochs=2), history("val_loss", values)) is stalled


def test_a_step_smaller_than_min_delta_is_no_step():
    values = [1.0, 0.95, 0.91]
    assert has_stalled(EarlyStopping(patience_epochs=2, min_delta=0.1), history("val_loss", values))
    assert not has_stalled(EarlyStopping(patience_epochs=2, min_delta=0.08), history("val_loss", values))


def test_an_accuracy_has_to_rise():
    wish = EarlyStopping(metric="val_accuracy", patience_epochs=1)
    assert not has_stalled(wish, history("val_accuracy", [0.1, 0.2]))
    assert has_stalled(wish, history("val_accuracy", [0.2, 0.2]))


def test_without_the_wish_nothing_stops():
    assert not has_stalled(None, history("val_loss", [1.0] * 50))


def test_a_run_stops_early_says_so_and_still_ends_whole(training):
    job = training(epochs=50, lr=1e-9, early_stopping={"metric": "val_loss", "patience_epochs": 3, "min_delta": 0.1})
    outcome = job.run()
    assert outcome.stopped_early
    epochs = [p.epoch for p in job.points() if p.series == "epoch"]
    assert epochs == [1, 2, 3, 4]
    [final] = [p for p in job.points() if p.series == "final"]
    assert final.epoch == 4
    [said] = [e for e in job.events if isinstance(e, Log) and "stopped early" in e.message]
    assert "val_loss" in said.message


def test_a_resumed_run_stops_after_the_same_epoch(training):
    job = training(epochs=50, lr=1e-9, early_stopping={"patience_epochs": 3, "min_delta": 0.1})
    outcome = job.run(resume=job.stopped(at=50))
    assert outcome.state.epoch - 1 == 4


def test_a_run_that_goes_on_improving_is_not_stopped(training):
    job = training(epochs=6, early_stopping={"patience_epochs": 2})
    assert not job.run().stopped_early
    assert len([p for p in job.points() if p.series == "epoch"]) == 6
