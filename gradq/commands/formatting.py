"""Formats numbers, durations and jobs for tables and lines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Job = Mapping[str, Any]

STYLES = {
    **{"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "cancelling": "yellow"},
    **{"pausing": "magenta", "paused": "magenta"},
}
CHECK, WALK = "gradient_check", "walk"  # the kinds of jobs that do not train


def summary_line(job: Job) -> str:
    """`job_…  succeeded  digits-mlp-manual-5c1f  loss 0.021  accuracy 0.972`"""
    parts = [job["id"], job["status"], job["name"]]
    result = job.get("result") or {}
    if result.get("train_loss") is not None:
        parts.append(f"loss {number(result['train_loss'])}")
    if result.get("test_accuracy") is not None:
        parts.append(f"accuracy {number(result['test_accuracy'])}")
    if reason := reason_of(job):
        parts.append(reason)
    return "  ".join(parts)


def progress_words(job: Job) -> list[str]:
    """Epoch, speed, time left, as far as known."""
    progress = job.get("progress") or {}
    if not progress:
        return []
    left = progress.get("eta_seconds")
    parts = [
        f"{round_of(job)} {progress['epoch']}/{progress['epochs']}",
        rate(progress.get("examples_per_second")),
        f"{span(left)} left" if left is not None and not job["terminal"] else "",
    ]
    return [part for part in parts if part]


def round_of(job: Job) -> str:
    """What the job's progress counts: epochs or batches."""
    return "batch" if job["kind"] in (CHECK, WALK) else "epoch"


def architecture_of(spec: dict[str, Any]) -> str:
    found = spec.get("architecture")
    if not isinstance(found, dict):
        return str(found)
    if "name" in found:
        return str(found["name"])  # a torchvision model
    sizes = found.get("channels", []) + found.get("hidden", [])
    return "-".join([found["type"], *map(str, sizes)])


def gradients_of(job: Job) -> str:
    others = {CHECK: "gradients checked", WALK: "stage by stage"}
    return others.get(job["kind"]) or f"{job['spec']['gradients']} gradients"


def device_of(job: Job) -> str:
    attempts = job.get("attempts") or []
    return str((job.get("result") or {}).get("device") or (attempts[-1]["device"] if attempts else ""))


def reason_of(job: Job) -> str:
    reason = job.get("status_reason") or (job.get("queue") or {}).get("reason")
    if not reason:
        return ""
    return f"{reason['code']}: {reason['detail']}" if reason.get("detail") else str(reason["code"])


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def rate(value: float | None) -> str:
    return "" if not value else f"{value:,.0f} examples/s".replace(",", " ")


def size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def span(seconds: float | None) -> str:
    """`4 s`, `3 min 20 s`, `2 h 5 min`, `3 d`."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 86_400 else f"{whole // 86_400} d"


def rough(seconds: float) -> str:
    """The largest unit of `span` alone: `3 min`, `2 h`."""
    return " ".join(span(seconds).split()[:2])


def age(created_at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds()
