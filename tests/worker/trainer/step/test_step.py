"""Replayed steps and steps that run one by one give the same result; only the log differs."""

import pytest
import torch

from shared.events import Log
from worker.trainer.step import step


def said(job):
    return [e.message for e in job.events if isinstance(e, Log) and e.message.startswith("steps ")]


@pytest.mark.parametrize("gradients", ["autograd", "manual"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optimizer": "basic", "schedule": "cosine"},
        {"optimizer": "adamw", "lr": 0.01, "schedule": "onecycle", "augment": ["shift", "rotate"]},
        {"architecture": "linear", "loss": "clamped_cross_entropy", "optimizer": {"type": "sgd", "momentum": 0.9}},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_repeated_steps_and_single_ones_end_with_the_same_bits(training, monkeypatch, gradients, fields):
    if gradients == "manual" and "precision" in fields:
        pytest.skip("refused by the spec")
    repeated = training(epochs=6, gradients=gradients, **fields)
    first = repeated.run()
    assert said(repeated) == [m for m in said(repeated) if "repeated from a tape" in m]
    assert len(said(repeated)) == 1
    monkeypatch.setattr(step, "WORTHWHILE", 10**9)
    single = training(epochs=6, gradients=gradients, **fields)
    second = single.run()
    assert said(single) == []
    for p, q in zip(first.state.model.parameters(), second.state.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [p.values.get("batch_loss") for p in repeated.points()] == [
        p.values.get("batch_loss") for p in single.points()
    ]


def test_a_convolution_runs_one_by_one_and_says_why(training):
    job = training(epochs=5, architecture={"type": "cnn", "channels": [2], "hidden": []})
    job.run()
    assert said(job) == ["steps run one by one: its kernels outweigh the calls (convolution)"]


def test_a_short_run_is_not_worth_a_tape(training):
    job = training(epochs=1)
    job.run()
    assert said(job) == []


def test_bf16_trains_in_bf16_and_keeps_its_weights_in_fp32(training):
    precise, coarse = training(epochs=3), training(epochs=3, precision="bf16")
    a, b = precise.run(), coarse.run()
    assert all(p.dtype == torch.float32 for p in b.state.model.parameters())
    assert a.test.loss != b.test.loss
    assert b.test.loss == pytest.approx(a.test.loss, rel=0.1)


def test_a_small_last_batch_is_never_the_one_that_is_captured(training):
    job = training(epochs=60, batch_size=400)  # 1455 = 3 * 400 + 255: the fourth batch is the small one
    job.run()
    [message] = said(job)
    assert "repeated from a tape" in message
    whole = training(epochs=60, batch_size=400, gradients="manual")
    whole.run()
    assert whole.points()[-1].values == job.points()[-1].values
