"""The training loop of one job, from the first batch to the last. Depends on torch and the spec, not on the queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import Tensor

from shared.errors import Diverged
from shared.events import Log, Metric, Report, Series
from shared.spec.job_spec import JobSpec
from worker.trainer import checkpoint
from worker.trainer.checkpoint import Checkpointer
from worker.trainer.data.datasets import Data
from worker.trainer.evaluate import Evaluation, evaluate
from worker.trainer.gradients.gradient_check import verify_step
from worker.trainer.gradients.table import Table
from worker.trainer.meter import READ_EVERY
from worker.trainer.nets.losses import Loss, build_loss
from worker.trainer.nets.weights import load_weights
from worker.trainer.progress import EpochTimer, ProgressReporter
from worker.trainer.run import Outcome, Run, StopRequested
from worker.trainer.step.schedules import build_schedule
from worker.trainer.step.state import State
from worker.trainer.step.step import Step
from worker.trainer.stopping import has_stalled, why_stopped


def train(spec: JobSpec, data: Data, report: Report, run: Run) -> Outcome:
    """Train as the spec says and report each point of the curve as it is measured.

    Returns the final state, the evaluation on the test split and, for manual gradients, the table of the first gradient
    check. Raises Diverged, GradientCheckFailed, or StopRequested once the checkpoint is written.
    """
    state = State(spec, data.info, data.device, data.streams)
    if run.init_from is not None and run.resume is None:
        load_weights(state.model, run.init_from)
    loss = build_loss(spec.loss)
    untrained = untrained_accuracy(spec, state, loss, data) if run.init_from is None else None
    proof = None
    if spec.gradients == "manual":
        proof = prove_gradients(state, loss, *next(data.train.epoch(1)), report)
    if run.resume is not None:
        resume(state, run, report)
    rate = build_schedule(spec, len(data.train.order))
    step = Step(spec, state, loss, data.train.order, report)
    folder = run.folder / "checkpoints"
    checkpoints = Checkpointer(spec.checkpoint, spec.to_json(), folder, report, stored=run.supervised)
    progress = ProgressReporter(spec, data, report)

    validation = None
    with reporting_last_losses(state, report):
        while state.epoch <= spec.epochs and not has_stalled(spec.early_stopping, state.history):
            timer = EpochTimer(state)
            state.model.train()
            for x, labels in data.train.epoch(state.epoch, first_batch=state.batch):
                if spec.verify and state.step and state.step % spec.verify.every_steps == 0:
                    prove_gradients(state, loss, x, labels, report)
                state.advance(step(x, labels, lr=rate(state.step)))
                if state.step == 1:
                    report(Log(message="first training step done"))
                if state.step % READ_EVERY == 0:
                    state.meter.flush(state.epoch, state.step)
                    add_point(state, report, "batch", batch_loss=state.meter.last)
                if run.stop_requested() or checkpoints.due():
                    timer.pause()
                    state.meter.flush(state.epoch, state.step)
                    checkpoints.save(state)
                    if run.stop_requested():
                        raise StopRequested(state.step)
                    timer.resume()
                progress.report_if_due(state, timer)
            state.meter.flush(state.epoch, state.step)
            timer.pause()
            validation = end_epoch(spec, state, loss, rate(state.step - 1), data, report)
            if checkpoints.due_after_epoch(state.epoch - 1):
                checkpoints.save(state)

        if stopped_early := state.epoch <= spec.epochs:
            report(Log(message=f"stopped early after epoch {state.epoch - 1}: {why_stopped(spec.early_stopping)}"))
        progress.report_end(state)
        if validation is not None and data.read_val is None:  # of this split, with these weights
            test = validation
        else:
            test = evaluate(state.model, loss, data.test_images, data.test_labels, spec.batch_size)
        require_finite(test.loss, "test", state)
        add_point(state, report, "final", epoch=state.epoch - 1, test_loss=test.loss, test_accuracy=test.accuracy)
    return Outcome(state, test, proof, stopped_early, untrained)


def untrained_accuracy(spec: JobSpec, state: State, loss: Loss, data: Data) -> float | None:
    """The accuracy of the initial weights on the validation split, if the spec names a preset: the article printed it.

    None for other specs, for which an evaluation more is not worth its time.
    """
    if spec.preset is None:
        return None
    accuracy = evaluate(state.model, loss, data.val_images, data.val_labels, spec.batch_size).accuracy
    state.model.train()
    return accuracy


def prove_gradients(state: State, loss: Loss, x: Tensor, labels: Tensor, report: Report) -> Table:
    """Compare the manual gradients with autograd's in float64 on one batch x (N,C,H,W), labels (N); log the result.

    Returns the table of the check. Raises GradientCheckFailed, or Diverged if the loss is not finite.
    """
    proof = verify_step(state.model, loss, x, labels)
    error = proof["max_relative_error"]
    message = f"step {state.step}: manual gradients equal autograd's: largest relative error {error:.2g}"
    report(Log(message=message, data={"step": state.step, **proof}))
    return proof


def resume(state: State, run: Run, report: Report) -> None:
    """Load the checkpoint and report again the points after `run.reported_step`, which the log may not hold.

    Raises TrainingError if the checkpoint cannot be read or does not fit the spec.
    """
    assert run.resume is not None
    state.load_state_dict(checkpoint.load(run.resume))
    report(Log(message=f"resumed from step {state.step}", data={"step": state.step}))
    for point in state.history.since(run.reported_step):
        report(point)


def end_epoch(spec: JobSpec, state: State, loss: Loss, lr: float, data: Data, report: Report) -> Evaluation:
    """Evaluate on the validation split, add the epoch's point to the curve, advance the state to the next epoch.

    Returns the evaluation. Raises Diverged if the validation loss is not finite.
    """
    validation = evaluate(state.model, loss, data.val_images, data.val_labels, spec.batch_size)
    require_finite(validation.loss, "validation", state)
    add_point(
        state,
        report,
        "epoch",
        train_loss=state.meter.mean(),
        val_loss=validation.loss,
        val_accuracy=validation.accuracy,
        lr=lr,
        examples_per_second=len(data.train.order.indices) / state.epoch_seconds,
    )
    if spec.checkpoint.keep_best:
        state.best.update(state.epoch, validation.loss, validation.accuracy, state.model)
    state.order_sha256 = data.train.order.sha256(state.epoch, state.order_sha256)
    state.start_next_epoch()
    return validation


@contextmanager
def reporting_last_losses(state: State, report: Report) -> Iterator[None]:
    """If the run diverges, report the losses after the last point of `batch_loss`, one point per step.

    Points are `READ_EVERY` steps apart: without these, a run that diverges before the first one has no curve.
    """
    try:
        yield
    except Diverged:
        with suppress(Diverged):  # steps that were not read yet, if it was not their loss
            state.meter.flush(state.epoch, state.step)
        for epoch, step, loss in state.meter.unreported:
            report(Metric(series="batch", step=step, epoch=epoch, values={"batch_loss": loss}))
        raise


def require_finite(value: float, what: str, state: State) -> None:
    """Raise Diverged if the loss on a split, named by `what`, is infinite or NaN."""
    if not abs(value) < float("inf"):
        detail = f"the {what} loss became {value} in epoch {state.epoch} at step {state.step}; try a smaller lr"
        raise Diverged(detail, epoch=state.epoch, step=state.step)


def add_point(state: State, report: Report, series: Series, epoch: int | None = None, **values: float) -> None:
    """Add a point at the current step to the curve and report it. `epoch` defaults to the current one."""
    point = Metric(series=series, step=state.step, epoch=state.epoch if epoch is None else epoch, values=values)
    state.history.add(point)
    report(point)
