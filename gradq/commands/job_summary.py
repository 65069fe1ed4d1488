"""One job in detail, one field per line."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from gradq.commands.formatting import (
    CHECK,
    WALK,
    Job,
    age,
    architecture_of,
    device_of,
    gradients_of,
    number,
    rate,
    reason_of,
    round_of,
    span,
)
from gradq.commands.plain_console import PlainConsole

USUAL_PRIORITY = 50
PLANS = {CHECK: "check", WALK: "way"}


def job_page(job: Job, artifacts: list[dict[str, Any]], console: Console | None = None) -> None:
    """Print one job, one field per line, without fields that have no value yet."""
    console = console or PlainConsole()
    facts = [*_state(job), *_work(job), *_outcome(job), ("files", ", ".join(row["name"] for row in artifacts))]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        if value:
            console.print(Text(f"{name:<{width}}  {value}"), soft_wrap=True)


Facts = list[tuple[str, Any]]


def _state(job: Job) -> Facts:
    """Id, name, status, queue position, times and attempts."""
    priority = job["priority"] if job["priority"] != USUAL_PRIORITY else None
    return [
        ("id", job["id"]),
        ("name", job["name"]),
        ("status", job["status"]),
        ("reason", reason_of(job) if job.get("status_reason") else None),
        ("queue", _queue(job)),
        ("times", _times(job)),
        ("priority", priority),
        ("labels", ", ".join(f"{key}={value}" for key, value in (job.get("labels") or {}).items())),
        ("reproduces", job.get("reproduces")),
        *((f"attempt {attempt['attempt']}", _attempt(attempt)) for attempt in job.get("attempts") or []),
    ]


def _work(job: Job) -> Facts:
    """Spec and progress."""
    spec = job["spec"]
    return [
        ("spec", f"{architecture_of(spec)} on {spec['dataset']}, {gradients_of(job)}, seed {spec['seed']}"),
        (PLANS.get(job["kind"], "training"), _plan(job)),
        ("begins with", _origin(spec)),
        (round_of(job), _progress(job)),
    ]


def _outcome(job: Job) -> Facts:
    result, progress = job.get("result") or {}, job.get("progress") or {}
    return [
        ("train loss", number(result.get("train_loss"))),
        ("validation", _two(result.get("val_loss"), result.get("val_accuracy"))),
        ("test", _two(result.get("test_loss"), result.get("test_accuracy"))),
        ("speed", rate(result.get("examples_per_second") or progress.get("examples_per_second"))),
        ("seconds", number(result.get("duration_seconds"))),
        ("device", device_of(job)),
        ("reproduction", _reproduction(result.get("reproduction"))),
        ("gradient check", _check(result.get("gradient_check"))),
        ("walk", _walk(result)),
        ("weights", result.get("weights_sha256")),
    ]


def _queue(job: Job) -> str:
    """`number 3: waiting_for_device: 2 jobs ahead, 0 of 2 slots free`"""
    queue = job.get("queue")
    return f"number {queue['position']}: {reason_of(job)}" if queue else ""


def _times(job: Job) -> str:
    created, started, finished = job.get("created_at"), job.get("started_at"), job.get("finished_at")
    parts = [f"created {span(age(created))} ago"] if created else []
    if started:
        parts.append(f"started {span(age(started))} ago")
    if finished:
        parts.append(f"ended {span(age(finished))} ago")
    return ", ".join(parts)


def _attempt(attempt: dict[str, Any]) -> str:
    resumed = attempt.get("resumed_from_step")
    parts = [attempt["device"], f"on {attempt['worker']}", attempt["outcome"] or "under way"]
    return ", ".join([*parts, *([f"resumed from step {resumed}"] if resumed is not None else [])])


def _progress(job: Job) -> str:
    """`3 of 10, 30 %, 4 s left`"""
    progress = job.get("progress")
    if not progress:
        return ""
    parts = [f"{progress['epoch']} of {progress['epochs']}", f"{progress['percent']:.0f} %"]
    left = progress.get("eta_seconds")
    return ", ".join([*parts, *([f"{span(left)} left"] if left is not None and not job["terminal"] else [])])


def _plan(job: Job) -> str:
    spec = job["spec"]
    if job["kind"] == CHECK:
        referees = "autograd and finite differences" if spec["finite_differences"] else "autograd"
        return f"against {referees}, {spec['batches']} batches of {spec['batch_size']}"
    if job["kind"] == WALK:
        return f"batch {spec['batch']} of the order, {spec['batch_size']} examples"
    return f"{spec['optimizer']['type']}, lr {spec['lr']:g}, batches of {spec['batch_size']}"


def _origin(spec: dict[str, Any]) -> str:
    return f"the weights of {spec['init_from']['job']}" if spec.get("init_from") else ""


def _reproduction(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    if found["identical"] is None:
        return str(found["detail"])
    if found["identical"]:
        return f"identical to {found['of']}"
    first = found["first_difference"]
    return f"differs from {found['of']} first at step {first['step']}, in {first['metric']}"


def _two(loss: float | None, accuracy: float | None) -> str:
    return "" if loss is None else f"loss {number(loss)}, accuracy {number(accuracy)}"


def _check(check: dict[str, Any] | None) -> str:
    if not check:
        return ""
    verdict = "manual and autograd agree" if check["passed"] else "manual and autograd DIFFER"
    return f"{verdict} (largest relative error {check['max_relative_error']:.1e}, {check['dtype']})"


def _walk(result: dict[str, Any]) -> str:
    if "agrees" not in result:
        return ""
    verdict = "manual and autograd agree" if result["agrees"] else "manual and autograd DIFFER"
    return (
        f"{verdict} in {result['stages']} stages (largest relative difference {result['max_relative_difference']:.1e})"
    )
