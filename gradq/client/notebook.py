"""A job in a notebook: a small table of its state, and its curve. No scripts, and all text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape

from gradq.client.job_view import JobView

RESULTS = ("train_loss", "val_loss", "val_accuracy", "test_accuracy")


def html(job: JobView, svg: bytes | None = None) -> str:
    """The HTML of a job. The SVG is embedded as an <img>, in which browsers run no scripts and follow no links."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts(job)
    )
    picture = ""
    if svg is not None:
        source = base64.b64encode(svg).decode()
        picture = f'<img alt="loss curve" style="max-width:640px" src="data:image/svg+xml;base64,{source}">'
    return f"<div><table>{rows}</table>{picture}</div>"


def facts(job: JobView) -> Iterator[tuple[str, str]]:
    """Name and value of each row of the table."""
    if "status" not in job:  # a handle with only its id, and the service did not answer
        yield "job", job.id
        yield "status", "not asked yet"
        return
    yield "job", f"{job.name} ({job.id})"
    yield "status", job.status
    if (progress := job.progress) and not job.terminal:
        yield "epoch", f"{progress['epoch']} of {progress['epochs']} ({progress['percent']:g} %)"
    reason = job.status_reason or (job.queue or {}).get("reason")
    if reason:
        yield "reason", ": ".join(str(reason[part]) for part in ("code", "detail") if reason.get(part))
    for name in RESULTS:
        value = (job.result or {}).get(name)
        if value is not None:
            yield name.replace("_", " "), f"{value:.4g}"
