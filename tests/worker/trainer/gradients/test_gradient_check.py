"""The gradient check: it passes on 200 drawn nets, and catches planted faults at the right parameter."""

import copy
import json
from pathlib import Path

import pytest
import torch
from support.problems import drawn, problem
from torch import nn

from shared.errors import Diverged, GradientCheckFailed
from shared.events import Log, Progress
from shared.spec import job_spec
from shared.spec.job_spec import GradientCheckSpec
from worker.trainer.gradient_check_job import run_check
from worker.trainer.gradients.gradient_check import Sampling, gradient_check, verify_step
from worker.trainer.gradients.manual_and_autograd import autograd_gradients
from worker.trainer.nets import layers
from worker.trainer.nets.layers import Linear
from worker.trainer.nets.losses import CrossEntropyLoss, build_loss
from worker.trainer.run import Run, StopRequested


def sampling(elements=3, seed=0):
    return Sampling(elements, torch.Generator().manual_seed(seed))


# --- right gradients pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(200))
def test_manual_gradients_equal_autograd_and_finite_differences(seed):
    model, x, labels, loss = drawn(seed)
    torch.manual_seed(seed)  # dropout's masks
    report = gradient_check(model, loss, [(x, labels)], sampling(seed=seed))
    assert report["passed"]
    assert report["max_relative_error"] <= 1e-10
    assert report["finite_differences"]["max_relative_error"] <= 1e-6
    assert report["finite_differences"]["checked"] >= 2 * report["finite_differences"]["skipped"]


def test_the_drawn_problems_are_not_trivial():
    problems = [drawn(seed) for seed in range(200)]
    assert {type(layer) for model, *_ in problems for layer in model.children()} == set(layers.PAIRS)
    moving = 0
    for model, x, labels, loss in problems:
        autograd_gradients(model, loss, x, labels)
        moving += all(p.grad.any() for p in model.parameters())
    assert moving >= 120  # some die in a narrow ReLU, under dropout or below the clamp


def test_check_reports_every_parameter():
    model, x, labels = problem(job_spec.Mlp(hidden=[3]), dtype=torch.float32)
    report = gradient_check(model, CrossEntropyLoss(), [(x, labels)])
    assert report["passed"]
    assert report["dtype"] == "float64"
    assert report["tolerance"] == 1e-9
    assert report["batch_size"] == 6
    assert report["batches"] == 1
    assert report["max_relative_error"] < 1e-12
    assert {name: entry["shape"] for name, entry in report["parameters"].items()} == {
        "1.weight": [3, 64],
        "1.bias": [3],
        "3.weight": [5, 3],
        "3.bias": [5],
    }
    assert all(len(entry["worst_index"]) == len(entry["shape"]) for entry in report["parameters"].values())


def test_check_leaves_model_gradients_and_random_state_untouched():
    model, x, labels = problem(job_spec.Cnn(channels=[2], batch_norm=True, dropout=0.3), dtype=torch.float32)
    autograd_gradients(model, CrossEntropyLoss(), x, labels)
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    random_state = torch.get_rng_state()
    with torch.no_grad():  # also inside an evaluation
        gradient_check(model, CrossEntropyLoss(), [(x, labels), (x[:1], labels[:1])], sampling())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_check_passes_where_the_batch_is_learnt_so_well_that_p_minus_1_loses_its_digits():
    model, x, _ = problem(job_spec.Linear(), n_classes=2, n=1)
    labels = model(x).argmax(1)
    gap = model(x).max() - model(x).min()
    for p in model.parameters():
        p.data *= 19 / gap  # p of the true class is 1 - 5.6e-9: half of the digits are left of p - 1
    for wanted in (job_spec.CrossEntropy(), job_spec.ClampedCrossEntropy(reduction="sum")):
        assert gradient_check(model, build_loss(wanted), [(x, labels)])["passed"]


# --- planted faults are caught, by either referee, at the right parameter ---------------------------------------------


def plant(monkeypatch, kind, backward):
    monkeypatch.setitem(layers.PAIRS, kind, (layers.PAIRS[kind][0], backward))


def wrong(report) -> set[str]:
    return {name for name, e in report["parameters"].items() if e["max_relative_error"] > report["tolerance"]}


def wrong_by_differences(report) -> set[str]:
    found = {name: entry["finite_differences"] for name, entry in report["parameters"].items()}
    return {name for name, e in found.items() if e["max_relative_error"] > report["finite_differences"]["tolerance"]}


def drop_the_bias_sum(monkeypatch):
    def linear_backward(layer, dout, x, needs_dx=True):
        dx = layers.linear_backward(layer, dout, x, needs_dx)
        layer.bias.grad = dout[0].clone()  # the first example alone
        return dx

    plant(monkeypatch, Linear, linear_backward)


def mask_relu_from_the_wrong_side(monkeypatch):
    plant(monkeypatch, nn.ReLU, lambda layer, dout, out: dout * (out <= 0))


def forget_to_divide_by_the_batch_size(monkeypatch):
    right = CrossEntropyLoss.backward
    monkeypatch.setattr(CrossEntropyLoss, "backward", lambda self, cache: right(self, cache) * len(cache[-1]))


def forget_that_the_mean_moves(monkeypatch):
    def batch_norm_backward(layer, dout, cache):
        dx = layers.batch_norm_backward(layer, dout, cache)
        return dx + dout.mean(0) * layer.weight * cache[1]

    plant(monkeypatch, nn.BatchNorm1d, batch_norm_backward)


def forget_that_the_variance_moves(monkeypatch):
    def batch_norm_backward(layer, dout, cache):
        normalized, inv_std = cache
        dx = layers.batch_norm_backward(layer, dout, cache)
        return dx + normalized * (dout * normalized).mean(0) * layer.weight * inv_std

    plant(monkeypatch, nn.BatchNorm1d, batch_norm_backward)


def forget_to_divide_by_the_share_kept(monkeypatch):
    plant(monkeypatch, nn.Dropout, lambda layer, dout, mask: dout * (mask != 0))


PLAIN = job_spec.Mlp(hidden=[8])
NORMALIZED = job_spec.Mlp(hidden=[8], batch_norm=True, activation="tanh")
BELOW, NORM, ABOVE = {"1.weight", "1.bias"}, {"2.weight", "2.bias"}, {"3.weight", "3.bias"}
FAULTS = [
    (drop_the_bias_sum, PLAIN, {"1.bias", "3.bias"}),
    (mask_relu_from_the_wrong_side, PLAIN, BELOW),  # what lies below the ReLU, and nothing above it
    (forget_to_divide_by_the_batch_size, PLAIN, BELOW | ABOVE),
    (forget_that_the_mean_moves, NORMALIZED, BELOW),
    (forget_that_the_variance_moves, NORMALIZED, {"1.weight"}),  # the bias below batch norm has no gradient at all
    (forget_to_divide_by_the_share_kept, job_spec.Mlp(hidden=[8], dropout=0.25), BELOW),
]


@pytest.mark.parametrize(
    ("fault", "architecture", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_check_catches_a_planted_fault_and_names_the_parameters(monkeypatch, fault, architecture, expected):
    model, loss, batches = _with_loss(architecture)
    torch.manual_seed(3)
    assert gradient_check(model, loss, batches, sampling())["passed"]
    fault(monkeypatch)
    report = gradient_check(model, loss, batches, sampling(100))
    assert not report["passed"]
    assert wrong(report) == expected
    assert wrong_by_differences(report) == expected
    assert report["loss_difference"] < 1e-12  # the loss itself was right
    with pytest.raises(GradientCheckFailed, match="manual and autograd gradients differ by") as failed:
        verify_step(model, loss, *batches[0])
    assert any(name in failed.value.detail for name in expected)


def test_a_fault_that_autograd_shared_is_still_seen_by_finite_differences(monkeypatch):
    """The referee that uses no rule of calculus: say that the loss's own backward were wrong for autograd as well."""
    model, loss, batches = _with_loss(job_spec.Linear())
    forget_to_divide_by_the_batch_size(monkeypatch)
    monkeypatch.setattr("worker.trainer.gradients.gradient_check.autograd_gradients", _scaled_gradients)
    report = gradient_check(model, loss, batches, sampling())
    assert wrong(report) == set()
    assert not report["passed"]
    assert wrong_by_differences(report) == {"1.weight", "1.bias"}


def _scaled_gradients(model, loss, x, labels):
    value = autograd_gradients(model, loss, x, labels)
    for p in model.parameters():
        p.grad = p.grad * len(labels)
    return value


def test_check_catches_a_single_wrong_entry_and_says_where(monkeypatch):
    def conv2d_backward(layer, dout, x, needs_dx=True):
        dx = layers.conv2d_backward(layer, dout, x, needs_dx)
        layer.weight.grad[1, 0, 2, 1] += 1e-4
        return dx

    plant(monkeypatch, nn.Conv2d, conv2d_backward)
    report = gradient_check(*_with_loss(job_spec.Cnn(channels=[3], hidden=[])))
    assert wrong(report) == {"0.weight"}
    assert report["parameters"]["0.weight"]["worst_index"] == [1, 0, 2, 1]
    assert report["parameters"]["0.weight"]["max_absolute_error"] == pytest.approx(1e-4)


@pytest.mark.parametrize("fault", ["forgotten", "nan"])
def test_check_fails_on_a_gradient_that_is_missing_or_not_a_number(monkeypatch, fault):
    def linear_backward(layer, dout, x, needs_dx=True):
        dx = layers.linear_backward(layer, dout, x, needs_dx)
        layer.bias.grad = None if fault == "forgotten" else torch.full_like(layer.bias, float("nan"))
        return dx

    plant(monkeypatch, Linear, linear_backward)
    report = gradient_check(*_with_loss(job_spec.Linear()))
    assert not report["passed"]
    assert wrong(report) == {"1.bias"}


def test_check_catches_a_wrong_loss_value(monkeypatch):
    forward = CrossEntropyLoss.forward
    monkeypatch.setattr(CrossEntropyLoss, "forward", lambda *args: (forward(*args)[0] + 1e-3, forward(*args)[1]))
    report = gradient_check(*_with_loss(job_spec.Linear()))
    assert not report["passed"]
    assert wrong(report) == set()
    assert report["loss_difference"] == pytest.approx(1e-3)


def _with_loss(architecture):
    model, x, labels = problem(architecture)
    return model, CrossEntropyLoss(), [(x, labels)]


# --- kinks ------------------------------------------------------------------------------------------------------------


def test_finite_differences_skip_a_kink_and_count_it():
    model, x, labels = problem(job_spec.Mlp(hidden=[4]))
    with torch.no_grad():
        model[1].bias[2] = 0.0
        model[1].weight[2] = 0.0  # this ReLU stands exactly on its kink, for every example
    report = gradient_check(model, CrossEntropyLoss(), [(x, labels)], sampling(1000))
    assert report["passed"]
    entries = {name: entry["finite_differences"] for name, entry in report["parameters"].items()}
    assert entries["1.weight"]["skipped"] == 64
    assert entries["1.bias"]["skipped"] == 1
    assert entries["1.bias"]["checked"] == 3
    assert entries["3.weight"]["skipped"] == 0


# --- verify_step and run_check ----------------------------------------------------------------------------------------


def test_verify_step_sees_the_masks_of_the_step_that_follows_and_draws_none_of_them():
    model, x, labels = problem(job_spec.Mlp(hidden=[8], dropout=0.5, batch_norm=True), dtype=torch.float32)
    torch.manual_seed(5)
    undisturbed = copy.deepcopy(model)
    autograd_gradients(undisturbed, CrossEntropyLoss(), x, labels)
    torch.manual_seed(5)
    table = verify_step(model, CrossEntropyLoss(), x, labels)
    autograd_gradients(model, CrossEntropyLoss(), x, labels)
    assert table["passed"]
    for (name, p), q in zip(model.named_parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    for (name, statistic), expected in zip(model.named_buffers(), undisturbed.buffers(), strict=True):
        assert torch.equal(statistic, expected), name


def checked(folder, events=None, stop=lambda: False, **fields):
    wanted = GradientCheckSpec.parse({"seed": 7, "device": "cpu", **fields})
    where = {"data_dir": Path("nowhere"), "download": False, "threads": 1}
    return run_check(wanted, Run(folder, stop=stop), (events if events is not None else []).append, **where)


@pytest.mark.parametrize(
    "architecture",
    [
        {"type": "mlp", "dropout": 0.2, "batch_norm": True},
        {"type": "cnn", "channels": [3], "batch_norm": True},
        "linear",
    ],
    ids=["mlp", "cnn", "linear"],
)
def test_a_check_job_holds_gradients_against_both_referees_on_real_data(tmp_path, architecture):
    events = []
    result = checked(tmp_path, events, architecture=architecture, batches=2, samples=4)
    table = json.loads((tmp_path / "artifacts" / "gradient_check.json").read_text())
    assert result["passed"] is True
    assert table == result["gradient_check"]
    assert (table["batches"], table["batch_size"]) == (2, 8)
    assert all(entry["finite_differences"]["checked"] > 0 for entry in table["parameters"].values())
    assert result["environment"]["threads"] == 1
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].step == progress[-1].total_steps == 2 * len(table["parameters"])
    assert "finite differences" in next(e.message for e in reversed(events) if isinstance(e, Log))


def test_a_check_job_is_a_function_of_its_seed(tmp_path):
    one, again, other = (checked(tmp_path, batches=1, seed=seed)["gradient_check"] for seed in (7, 7, 8))
    assert one == again
    assert one != other


def test_a_check_job_can_leave_finite_differences_out(tmp_path):
    table = checked(tmp_path, finite_differences=False)["gradient_check"]
    assert "finite_differences" not in table
    assert all("finite_differences" not in entry for entry in table["parameters"].values())


def test_a_check_job_takes_more_batches_than_the_data_set_has(tmp_path):
    table = checked(tmp_path, architecture="linear", batch_size=1024, batches=5, finite_differences=False)
    assert table["gradient_check"]["batches"] == 5


def test_a_check_job_that_fails_leaves_its_table_and_names_the_parameter(tmp_path, monkeypatch):
    drop_the_bias_sum(monkeypatch)
    with pytest.raises(GradientCheckFailed, match=r"most in [13]\.bias\[\d+\]") as failed:
        checked(tmp_path)
    table = json.loads((tmp_path / "artifacts" / "gradient_check.json").read_text())
    assert table == failed.value.data["gradient_check"]
    assert table["passed"] is False
    worst = table["parameters"]["3.bias"]
    assert worst["worst_manual"] != worst["worst_autograd"]
    assert worst["worst_autograd"] == pytest.approx(worst["finite_differences"]["worst_numeric"], rel=0.5, abs=1)


def test_a_check_job_stops_when_asked(tmp_path):
    with pytest.raises(StopRequested):
        checked(tmp_path, stop=lambda: True)


def test_a_loss_that_is_not_finite_is_named_and_no_gradient_is_blamed():
    model, loss, batches = _with_loss(job_spec.Mlp(hidden=[4]))
    with torch.no_grad():
        model[1].weight.fill_(1e200)
        model[3].weight.fill_(1e200)
    with pytest.raises(Diverged, match="in float64: there is nothing to compare"):
        gradient_check(model, loss, batches)
