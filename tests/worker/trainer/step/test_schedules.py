"""A schedule gives each step the same rate as PyTorch's scheduler of that name, without any state."""

import pytest
import torch

from shared.spec.job_spec import JobSpec
from worker.trainer.step.schedules import build_schedule

PER_EPOCH, EPOCHS, LR = 7, 6, 0.3


def rates(schedule, epochs=EPOCHS):
    rate = build_schedule(JobSpec.parse({"lr": LR, "epochs": epochs, "schedule": schedule}), PER_EPOCH)
    return [rate(step) for step in range(epochs * PER_EPOCH)]


def torch_rates(make, every):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], LR)
    scheduler, found = make(optimizer), []
    for step in range(EPOCHS * PER_EPOCH):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0:
            scheduler.step()
    return found


def test_constant_stays():
    assert set(rates("constant")) == {LR}


def test_step_equals_torch_s():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.25), every=PER_EPOCH)
    assert rates({"type": "step", "every_epochs": 2, "gamma": 0.25}) == pytest.approx(expected)


def test_cosine_equals_torch_s():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS * PER_EPOCH), every=1)
    assert rates("cosine") == pytest.approx(expected)


def test_cosine_warms_up_in_a_line_and_then_falls():
    found = rates({"type": "cosine", "warmup_epochs": 2})
    warm = 2 * PER_EPOCH
    assert found[:warm] == pytest.approx([LR * (i + 1) / warm for i in range(warm)])
    assert found[warm] == LR
    assert all(a > b > 0 for a, b in zip(found[warm:], found[warm + 1 :], strict=False))


def test_one_cycle_equals_torch_s():
    total = EPOCHS * PER_EPOCH
    make = lambda o: torch.optim.lr_scheduler.OneCycleLR(o, LR, total_steps=total, cycle_momentum=False)
    assert rates("onecycle") == pytest.approx(torch_rates(make, every=1))


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", {"type": "step", "every_epochs": 1}])
def test_one_epoch_of_one_step_has_a_rate(schedule):
    rate = build_schedule(JobSpec.parse({"lr": LR, "epochs": 1, "schedule": schedule}), 1)
    assert 0 < rate(0) <= LR


def test_the_rate_of_each_epoch_is_reported(training):
    job = training(epochs=4, schedule={"type": "step", "every_epochs": 2, "gamma": 0.5}, lr=0.08)
    job.run()
    assert [p.values["lr"] for p in job.points() if p.series == "epoch"] == [0.08, 0.08, 0.04, 0.04]
