"""The curve so far: added to, read, saved in a checkpoint, reported again from a step on."""

import pytest

from shared.events import Metric
from worker.trainer import checkpoint
from worker.trainer.history import History

POINTS = [
    Metric(series="batch", step=50, epoch=1, values={"batch_loss": 2.0}),
    Metric(series="epoch", step=60, epoch=1, values={"train_loss": 1.5, "val_loss": 1.6}),
    Metric(series="batch", step=100, epoch=2, values={"batch_loss": 1.0}),
    Metric(series="epoch", step=120, epoch=2, values={"train_loss": 0.9, "val_loss": 1.1}),
    Metric(series="final", step=120, epoch=2, values={"test_loss": 1.2}),
]


@pytest.fixture
def history():
    history = History()
    for point in POINTS:
        history.add(point)
    return history


def plain(points):
    return [(p.series, p.step, p.epoch, p.values) for p in points]


def test_every_point_comes_back_in_the_order_of_the_steps(history):
    assert plain(history.since(-1)) == plain(POINTS)


@pytest.mark.parametrize(("step", "left_out"), [(50, 0), (51, 1), (60, 1), (61, 2), (120, 3), (121, 5)])
def test_points_since_a_step_include_the_step_itself(history, step, left_out):
    assert plain(history.since(step)) == plain(POINTS[left_out:])


def test_series_are_what_the_exports_draw(history):
    assert history.series() == {
        "batch_loss": [(50, 1, 2.0), (100, 2, 1.0)],
        "train_loss": [(60, 1, 1.5), (120, 2, 0.9)],
        "val_loss": [(60, 1, 1.6), (120, 2, 1.1)],
        "test_loss": [(120, 2, 1.2)],
    }


def test_a_column_is_the_values_of_one_name(history):
    assert history.column("epoch", "val_loss") == [1.6, 1.1]
    assert history.column("epoch", "step") == [60, 120]
    assert history.column("epoch", "nothing") == []


def test_a_history_goes_through_a_file_that_holds_no_code(history, tmp_path):
    import torch

    torch.save({"format": checkpoint.FORMAT, "history": history.state_dict()}, tmp_path / "h.pt")
    other = History()
    other.load_state_dict(checkpoint.load(tmp_path / "h.pt")["history"])
    assert plain(other.since(-1)) == plain(POINTS)
    other.add(Metric(series="batch", step=150, epoch=3, values={"batch_loss": 0.5}))
    assert other.column("batch", "batch_loss") == [2.0, 1.0, 0.5]
