"""The running loss of an epoch: its sum does not depend on when it is read."""

import math

import pytest
import torch

from shared.errors import Diverged
from worker.trainer.meter import READ_EVERY, LossMeter

CPU = torch.device("cpu")


def losses(n, seed=3):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 3


def meter_of(values, flush_every):
    meter = LossMeter(CPU)
    for step, value in enumerate(values, 1):
        meter.add(value)
        if step % flush_every == 0 or step == len(values):
            meter.flush(1, step)
    return meter


def test_the_mean_is_that_of_the_losses():
    values = losses(33)
    assert meter_of(values, 50).mean() == pytest.approx(values.double().mean().item(), rel=1e-15)


def test_the_mean_does_not_depend_on_when_it_was_read():
    values = losses(173)
    means = {meter_of(values, every).mean() for every in (1, 7, 49, READ_EVERY)}
    assert len(means) == 1  # to the last bit


def test_last_is_the_newest_loss_that_was_read():
    meter = LossMeter(CPU)
    assert math.isnan(meter.last)
    meter.add(torch.tensor(2.0))
    meter.add(torch.tensor(0.5))
    meter.flush(1, 2)
    assert meter.last == 0.5
    meter.flush(1, 2)  # nothing new
    assert meter.last == 0.5
    assert (meter.total, meter.count) == (2.5, 2)


def test_adding_takes_a_copy():
    meter, loss = LossMeter(CPU), torch.tensor(1.0)
    meter.add(loss)
    loss.fill_(5.0)
    meter.flush(1, 1)
    assert meter.mean() == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_not_finite_is_named_with_its_step(value):
    meter = LossMeter(CPU)
    for loss in (1.0, 2.0, value, math.nan, 3.0):
        meter.add(torch.tensor(loss))
    with pytest.raises(Diverged, match=rf"became {value} in epoch 4 at step 18; try a smaller lr") as diverged:
        meter.flush(4, 20)
    assert diverged.value.data == {"epoch": 4, "step": 18}


def test_a_meter_goes_on_from_what_it_saved():
    values = losses(60)
    whole = meter_of(values, 30)
    first = meter_of(values[:20], 20)
    second = LossMeter(CPU)
    second.load_state_dict(first.state_dict())
    for value in values[20:]:
        second.add(value)
    second.flush(1, 60)
    assert second.state_dict() == whole.state_dict()


def test_saving_before_reading_is_our_own_mistake():
    meter = LossMeter(CPU)
    meter.add(torch.tensor(1.0))
    with pytest.raises(AssertionError, match="flush before saving"):
        meter.state_dict()


def test_a_new_epoch_begins_at_nothing():
    meter = meter_of(losses(5), 5)
    meter.reset()
    meter.add(torch.tensor(2.0))
    meter.flush(2, 6)
    assert meter.mean() == 2.0
