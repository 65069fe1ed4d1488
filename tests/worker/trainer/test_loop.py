"""The training loop learns and reports the whole curve; an interrupted run ends as an uninterrupted one."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from shared.errors import Diverged, GradientCheckFailed
from shared.events import CheckpointSaved, Log, Metric, Progress
from shared.spec.job_spec import JobSpec
from worker.trainer import loop, seeds
from worker.trainer.data import datasets
from worker.trainer.evaluate import evaluate
from worker.trainer.gradients.manual_and_autograd import autograd_gradients
from worker.trainer.nets import layers
from worker.trainer.nets.layers import Linear, linear_backward
from worker.trainer.nets.losses import CrossEntropyLoss, build_loss
from worker.trainer.results import weights_sha256
from worker.trainer.run import Run
from worker.trainer.step.state import State

ARCHITECTURES = ["linear", "mlp", "cnn"]
OPTIMIZERS = [
    {"type": "basic"},
    {"type": "sgd", "momentum": 0.9},
    {"type": "adam"},
    {"type": "adamw"},
]
STEPS = 46  # an epoch of digits has 1455 examples to train on: 46 batches of 32
BY_THE_CLOCK = "examples_per_second"  # the only figure that may differ between two runs


def rate(optimizer):
    return 0.003 if optimizer["type"].startswith("adam") else 0.05


class Curve(dict):
    """The points as the job's log keeps them: one reported twice is kept once. Asserts that both are equal."""

    def add(self, points):
        for point in points:
            values = {name: value for name, value in point.values.items() if name != BY_THE_CLOCK}
            assert self.setdefault((point.series, point.step), (point.epoch, values)) == (point.epoch, values)

    @property
    def last_step(self):
        return max((step for _, step in self), default=-1)


def curve_of(training):
    curve = Curve()
    curve.add(training.points())
    return curve


def assert_same_end(outcome, expected):
    for name, tensor in expected.state.model.state_dict().items():
        assert torch.equal(outcome.state.model.state_dict()[name], tensor), name
    for name, tensor in expected.state.best.weights.items():
        assert torch.equal(outcome.state.best.weights[name], tensor), f"best {name}"
    assert outcome.state.order_sha256 == expected.state.order_sha256
    assert (outcome.test.loss, outcome.test.accuracy) == (expected.test.loss, expected.test.accuracy)


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", ["manual", "autograd"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_five_epochs_of_small_batches_learn_digits(training, architecture, gradients):
    outcome = training(architecture=architecture, gradients=gradients, epochs=5, batch_size=16).run()
    assert outcome.test.accuracy > 0.9
    assert (outcome.gradient_check is not None) == (gradients == "manual")


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o["type"])
@pytest.mark.parametrize(
    "architecture", ["linear", "mlp", {"type": "mlp", "hidden": [20, 10], "activation": "tanh"}], ids=str
)
def test_both_ways_to_the_gradient_end_with_the_same_weights_bit_for_bit(training, architecture, optimizer):
    fields = {"architecture": architecture, "optimizer": optimizer, "lr": rate(optimizer), "epochs": 3}
    manual, autograd = (training(**fields, gradients=way) for way in ("manual", "autograd"))
    assert_same_end(manual.run(), autograd.run())
    assert curve_of(manual) == curve_of(autograd)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(training):
    first, again, other = (weights_sha256(training(seed=seed).run().state.model) for seed in (7, 7, 8))
    assert first == again != other


def test_what_was_drawn_before_a_run_does_not_change_it(training):
    first = weights_sha256(training().run().state.model)
    torch.manual_seed(123)
    torch.rand(1000)
    assert weights_sha256(training().run().state.model) == first


# --- the curve --------------------------------------------------------------------------------------------------------


def test_the_curve_has_every_point_of_the_contract_once(training):
    job = training(epochs=3, batch_size=32)
    job.run()
    found = {series: [p for p in job.points() if p.series == series] for series in ("epoch", "batch", "final")}
    assert [(p.step, p.epoch) for p in found["epoch"]] == [(STEPS, 1), (2 * STEPS, 2), (3 * STEPS, 3)]
    assert [(p.step, p.epoch) for p in found["batch"]] == [(50, 2), (100, 3)]
    assert [(p.step, p.epoch) for p in found["final"]] == [(3 * STEPS, 3)]
    names = {"train_loss", "val_loss", "val_accuracy", "lr", BY_THE_CLOCK}
    assert all(set(p.values) == names for p in found["epoch"])
    assert all(set(p.values) == {"batch_loss"} for p in found["batch"])
    assert set(found["final"][0].values) == {"test_loss", "test_accuracy"}
    assert all(type(v) is float and math.isfinite(v) for p in job.points() for v in p.values.values())
    assert all(p.values["lr"] == job.spec.lr and p.values[BY_THE_CLOCK] > 0 for p in found["epoch"])
    json.dumps([p.values for p in job.points()], allow_nan=False)


def test_the_training_loss_is_the_mean_over_the_epoch_s_batches(training):
    job = training(epochs=1, batch_size=1000)  # two batches
    job.prepare()
    (x, labels), (y, others) = job.data.train.epoch(1)
    state = State(job.spec, job.data.info, torch.device("cpu"))
    first = autograd_gradients(state.model, CrossEntropyLoss(), x, labels).item()
    state.optimizer.step()
    second = F.cross_entropy(state.model(y), others).item()
    job.run()
    assert job.points()[0].values["train_loss"] == pytest.approx((first + second) / 2, rel=1e-6)


def test_the_other_figures_are_those_of_the_finished_model(training):
    job = training()
    outcome = job.run()
    last, final = job.points()[-2].values, job.points()[-1].values
    for images, labels, loss, accuracy in (
        (job.data.val_images, job.data.val_labels, last["val_loss"], last["val_accuracy"]),
        (job.data.test_images, job.data.test_labels, final["test_loss"], final["test_accuracy"]),
    ):
        logits = outcome.state.model(images)
        assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert accuracy == (logits.argmax(1) == labels).double().mean().item()


def test_validating_with_the_test_split_shows_its_figures_every_epoch(training):
    job = training(validation="test", batch_size=32)
    job.run()
    *_, last, final = job.points()
    assert last.step == 2 * 51  # all 1617 examples are trained on
    assert (last.values["val_loss"], last.values["val_accuracy"]) == (
        final.values["test_loss"],
        final.values["test_accuracy"],
    )


def test_the_first_step_is_announced_once_and_progress_is_shown(training):
    job = training()
    job.run()
    assert [e.message for e in job.events if isinstance(e, Log)] == ["first training step done"]
    first = next(e for e in job.events if isinstance(e, Progress))
    assert (first.epoch, first.epochs, first.total_steps) == (1, 2, 46)
    assert 0 < first.step <= 46
    assert first.examples_per_second > 0


def test_a_step_more_than_the_window_of_losses_is_no_trouble(training):
    job = training(epochs=1, batch_size=10)  # 146 batches
    job.run()
    assert [p.step for p in job.points() if p.series == "batch"] == [50, 100]


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("article/two-layer", {}),
        ("article/two-layer", {"architecture": {"type": "mlp", "hidden": [9], "dropout": 0.5, "batch_norm": True}}),
        ("article/manual-linear", {}),
        ("article/autograd-linear", {}),
        ("article/basic-optimizer", {"validation": "test"}),
    ],
)
def test_a_preset_measures_the_accuracy_of_its_initial_weights_and_trains_as_without(training, preset, more):
    fields = {"preset": preset, "dataset": "digits", "epochs": 1, **more}
    job = training(**fields)
    outcome = job.run()
    fresh = State(job.spec, job.data.info, torch.device("cpu")).model.eval()
    assert outcome.untrained_accuracy == (fresh(job.data.val_images).argmax(1) == job.data.val_labels).double().mean()
    plain = training(**{**job.spec.to_json(), "preset": None})
    assert_same_end(plain.run(), outcome)
    resumed = training(**fields)
    again = resumed.run(resumed.stopped(5))
    assert again.untrained_accuracy == outcome.untrained_accuracy
    assert plain.run().untrained_accuracy is None


# --- the best epoch ---------------------------------------------------------------------------------------------------


def test_the_weights_of_the_best_epoch_are_kept(training):
    job = training(epochs=8, lr=1.5, optimizer={"type": "sgd", "momentum": 0.8})
    outcome = job.run()
    val_losses = [p.values["val_loss"] for p in job.points() if p.series == "epoch"]
    best = outcome.state.best
    assert best.val_loss == min(val_losses)
    assert best.epoch == 1 + val_losses.index(best.val_loss)
    assert best.epoch < 8, "choose a rougher training: here the last epoch is the best"
    shorter = training(epochs=best.epoch, lr=1.5, optimizer={"type": "sgd", "momentum": 0.8}).run()
    for name, tensor in shorter.state.model.state_dict().items():
        assert torch.equal(best.weights[name], tensor), name


def test_no_weights_are_kept_when_they_are_not_wanted(training):
    assert training(checkpoint={"keep_best": False}).run().state.best.weights == {}


# --- stop and resume --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o["type"])
@pytest.mark.parametrize("gradients", ["manual", "autograd"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_stopped_again_and_again_ends_like_an_unbroken_one(training, architecture, gradients, optimizer):
    fields = {"architecture": architecture, "gradients": gradients, "optimizer": optimizer, "lr": rate(optimizer)}
    unbroken = training(**fields, batch_size=32)
    expected = unbroken.run()
    broken, curve, resume = training(**fields, batch_size=32), Curve(), None
    for place in (
        7,
        STEPS,
        50,
        2 * STEPS,
    ):  # in an epoch, at its end, where a batch's loss is reported, at the very end
        resume = broken.stopped(place, resume, curve.last_step)
        curve.add(broken.points())
    outcome = broken.run(resume, curve.last_step)
    curve.add(broken.points())
    assert_same_end(outcome, expected)
    assert curve == curve_of(unbroken)


@pytest.mark.parametrize("place", [1, 7, STEPS - 1, STEPS, STEPS + 1, 49, 50, 51, 2 * STEPS - 1, 2 * STEPS])
def test_a_run_may_be_stopped_at_any_step(training, place):
    expected = training(batch_size=32).run()
    broken, curve = training(batch_size=32), Curve()
    resume = broken.stopped(place)
    curve.add(broken.points())
    assert_same_end(broken.run(resume, curve.last_step), expected)
    curve.add(broken.points())
    assert len(curve) == 2 + 1 + 1  # two epochs, step 50, the end


def test_a_resumed_run_keeps_the_threads_of_its_first_attempt(training):
    """The next attempt may run on a host with another number of cores."""
    torch.set_num_threads(2)
    expected = training(architecture="mlp").run()
    broken = training(architecture="mlp")
    resume = broken.stopped(at=7)
    torch.set_num_threads(1)
    assert_same_end(broken.run(resume), expected)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_goes_on_from_the_checkpoint_after_an_epoch(training, epoch):
    wish = {"every_seconds": None, "every_epochs": 1}
    unbroken = training(epochs=3, checkpoint=wish)
    expected = unbroken.run()
    assert [e.step for e in unbroken.events if isinstance(e, CheckpointSaved)] == [23, 46, 69]
    curve = curve_of(unbroken)
    again = training(epochs=3, checkpoint=wish)
    assert_same_end(again.run(unbroken.folder / "checkpoints" / f"{23 * epoch}.pt"), expected)
    curve.add(again.points())
    assert curve == curve_of(unbroken)


def test_a_killed_run_makes_the_points_after_its_checkpoint_again_with_the_same_values(training):
    killed = training(batch_size=32)
    killed.run()  # its log holds the whole curve
    curve = curve_of(killed)
    again = training(batch_size=32)
    resume = again.stopped(STEPS + 2)
    again.run(resume, curve.last_step)
    assert [p.step for p in again.points()] == [50, 92, 92]  # already in the log
    curve.add(again.points())  # asserts that none differs


@pytest.mark.parametrize("reported", [-1, 0, 45, STEPS, 50, 60])
def test_points_lost_on_the_way_to_the_log_are_reported_again(training, reported):
    unbroken = training(batch_size=32)
    unbroken.run()
    broken = training(batch_size=32)
    resume = broken.stopped(60)
    curve = Curve()
    curve.add(p for p in broken.points() if p.step <= reported)  # the events received before the connection broke
    broken.run(resume, reported)
    curve.add(broken.points())
    assert curve == curve_of(unbroken)
    assert {p.step for p in broken.points() if p.step <= 60} == {s for s in (STEPS, 50) if s >= reported}


def as_of_release_0_2_0(checkpoint):
    """Rewrite a checkpoint as that release wrote it."""
    state = torch.load(checkpoint, weights_only=True)
    del state["streams"], state["meter"]["unreported"]
    torch.save(state, checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    "augment",
    [[], ["shift"], ["rotate"], ["flip"], ["crop"], ["shift", "flip", "rotate"]],
    ids=lambda steps: "-".join(steps) or "none",
)
def test_a_checkpoint_of_release_0_2_0_goes_on_with_the_streams_of_its_run(training, augment):
    """The run ends as that release would have ended it, and not with streams of both kinds."""
    fields = {"augment": augment, "batch_size": 200, "seed": 3}
    now, old = training(**fields).run(), training(**fields)
    old.streams = seeds.LOW_BITS
    expected = old.run()
    paused = training(**fields)
    paused.streams = seeds.LOW_BITS
    resume = as_of_release_0_2_0(paused.stopped(5))
    paused.streams = seeds.STREAMS
    assert_same_end(paused.run(resume), expected)
    assert weights_sha256(expected.state.model) != weights_sha256(now.state.model)
    again = paused.stopped(6, resume)  # stopped a second time, now by this release
    assert_same_end(paused.run(again), expected)


def test_a_resumed_run_says_from_where(training):
    job = training()
    job.run(job.stopped(9))
    assert [(e.message, e.data) for e in job.events if isinstance(e, Log)] == [("resumed from step 9", {"step": 9})]


def test_the_seconds_of_training_add_up_over_attempts(training):
    job = training()
    resume = job.stopped(30)
    first = torch.load(resume, weights_only=True)["seconds"]
    assert first["training"] > 0
    assert first["epoch"] > 0
    assert job.run(resume).state.training_seconds > first["training"] + first["epoch"]


def test_a_checkpoint_by_the_clock_changes_nothing(training):
    quiet, busy = training(), training(checkpoint={"every_seconds": 1e-9, "keep_best": True})
    expected = quiet.run()
    assert_same_end(busy.run(), expected)
    assert len(busy.checkpoints()) >= 46
    assert curve_of(busy) == curve_of(quiet)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", ["manual", "autograd"])
def test_a_diverging_run_names_the_first_step_whose_loss_is_not_finite(training, gradients):
    job = training(lr=1e12, gradients=gradients, architecture={"type": "mlp", "hidden": [30, 30, 30]}, batch_size=32)
    job.prepare()
    state = State(job.spec, job.data.info, torch.device("cpu"))
    for epoch in (1, 2):
        for x, labels in job.data.train.epoch(epoch):
            state.step += 1
            if not autograd_gradients(state.model, CrossEntropyLoss(), x, labels).isfinite():
                break
            state.optimizer.step()
            state.optimizer.zero_grad()
        else:
            continue
        break
    with pytest.raises(Diverged, match=rf"in epoch {epoch} at step {state.step}; try a smaller lr") as diverged:
        job.run()
    assert diverged.value.data == {"epoch": epoch, "step": state.step}
    assert state.step < 50


def losses_of(job):
    """The points of `batch_loss` of a run, by step."""
    return {p.step: p.values["batch_loss"] for p in job.points() if p.series == "batch"}


@pytest.mark.parametrize("decay", [9.0, 5.0, 4.0, 3.0, 2.5])
@pytest.mark.parametrize("gradients", ["manual", "autograd"])
def test_a_run_that_diverges_keeps_the_loss_of_each_step_before(training, decay, gradients):
    """Each step multiplies the weights by 1 - decay, until they are infinite."""
    fields = {
        "gradients": gradients,
        "batch_size": 32,
        "optimizer": {"type": "sgd", "weight_decay": decay},
        "epochs": 9,
    }
    job = training(lr=1.0, architecture="linear", **fields)
    with pytest.raises(Diverged) as diverged:
        job.run()
    step = diverged.value.data["step"]
    kept = losses_of(job)
    assert sorted(kept) == [*range(50, step, 50), *range((step - 1) // 50 * 50 + 1, step)]
    assert all(math.isfinite(loss) for loss in kept.values())
    assert all(p.epoch == 1 + (p.step - 1) // STEPS for p in job.points() if p.series == "batch")
    if step > 1:
        assert kept[1 if step <= 50 else 50] > 0


def test_a_run_that_was_resumed_keeps_the_losses_before_its_checkpoint_too(training):
    fields = {"lr": 1.0, "batch_size": 32, "optimizer": {"type": "sgd", "weight_decay": 9.0}}
    unbroken, broken = training(**fields), training(**fields)
    with pytest.raises(Diverged) as diverged:
        unbroken.run()
    assert 3 < diverged.value.data["step"] < 50
    resume = broken.stopped(2)
    with pytest.raises(Diverged):
        broken.run(resume)
    assert losses_of(broken) == losses_of(unbroken)


def test_a_run_whose_validation_loss_is_not_finite_keeps_the_losses_of_its_steps(training):
    job = training(lr=1e30, batch_size=2000, architecture={"type": "mlp", "hidden": [30, 30]})
    with pytest.raises(Diverged, match="validation loss"):
        job.run()
    assert list(losses_of(job)) == [1]


def test_a_run_that_does_not_diverge_has_no_more_points_than_before(training):
    job = training(batch_size=32)
    job.run()
    assert list(losses_of(job)) == [50]


def test_a_run_whose_validation_loss_is_not_finite_has_diverged(training):
    with pytest.raises(Diverged, match="the validation loss became .* in epoch 1 at step 1"):
        training(lr=1e30, batch_size=2000, architecture={"type": "mlp", "hidden": [30, 30]}).run()


def test_a_wrong_gradient_by_hand_ends_the_run_before_its_first_step(training, monkeypatch):
    def twice_the_bias(layer, dout, x, needs_dx=True):
        dx = linear_backward(layer, dout, x, needs_dx)
        if layer.out_features == 10:
            layer.bias.grad *= 2
        return dx

    monkeypatch.setitem(layers.PAIRS, Linear, (layers.PAIRS[Linear][0], twice_the_bias))
    job = training(gradients="manual")
    with pytest.raises(GradientCheckFailed, match=r"differ by 1 \(relative\), most in 3.bias") as failed:
        job.run()
    assert failed.value.data["gradient_check"]["passed"] is False
    assert [e for e in job.events if isinstance(e, Metric)] == []
    training(gradients="autograd").run()  # a job with autograd gradients is not affected


def test_nothing_is_written_outside_the_run_s_folder(training, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    training(checkpoint={"every_epochs": 1}).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "training-0"]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("gradients", ["autograd", "manual"])
def test_a_last_batch_of_one_example_ends_no_run_with_batch_norm(training, gradients):
    job = training(gradients=gradients, architecture={"type": "mlp", "batch_norm": True}, batch_size=1454, epochs=1)
    job.run()
    assert [len(labels) for _, labels in job.data.train.epoch(1)] == [1454, 1]


@pytest.mark.long
def test_a_net_of_torchvision_s_trains_on_digits(training):
    job = training(architecture={"type": "torchvision", "name": "resnet18"}, batch_size=728, epochs=1, lr=0.05)
    outcome = job.run()
    assert 0 <= outcome.test.accuracy <= 1
    assert all(torch.isfinite(tensor).all() for tensor in outcome.state.model.state_dict().values())


@pytest.mark.parametrize(("validation", "passes"), [("test", 2), ({"fraction": 0.1}, 3)], ids=str)
def test_the_test_split_is_evaluated_once_after_an_epoch_that_validated_on_it(
    tmp_path, monkeypatch, validation, passes
):
    spec = JobSpec.parse({"seed": 7, "epochs": 2, "validation": validation})
    data = datasets.prepare(spec, Path("nowhere"), False, torch.device("cpu"))
    seen = []
    monkeypatch.setattr(loop, "evaluate", lambda *arguments: seen.append(1) or evaluate(*arguments))
    outcome = loop.train(spec, data, lambda event: None, Run(tmp_path))
    expected = evaluate(outcome.state.model, build_loss(spec.loss), data.test_images, data.test_labels, 64)
    assert len(seen) == passes
    assert torch.equal(outcome.test.logits, expected.logits)
    assert outcome.test.accuracy == expected.accuracy
