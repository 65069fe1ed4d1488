"""The verb `watch`: a job's loss curve, drawn anew as it trains; one line an epoch where nobody draws."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradq.client import DEFAULT_URL, Client
from gradq.job import Job
from gradq.options import Exit, JobId, Token, Url, outcome
from gradq.plot import Curve, plot
from gradq.steering import patiently
from gradq.tables import CHECK, STYLES, number, rate, span, summary_line

PAUSE_SECONDS = 0.25
CURVES = (("batch_loss", "batch", "bright_black"), ("train_loss", "train", "bright_blue"), ("val_loss", "val", "red"))
PLOT_HEIGHT = 18
POINTS = 1000  # more than a terminal has columns

Series = dict[str, list[list[Any]]]


def watch(job_id: JobId, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Follow one job with its loss curve; exits like `gradq wait`.

    Ctrl-C ends the watching; the job goes on.
    """
    console = Console()
    drawing = console.is_terminal and console.encoding.lower().startswith("utf")
    with Client(url, token) as client:
        try:
            job = draw_live(client, job_id, console) if drawing else print_epochs(client, job_id)
        except KeyboardInterrupt:
            print(f"{job_id} goes on; `gradq watch {job_id}` looks again, `gradq cancel {job_id}` ends it")
            raise typer.Exit(Exit.INTERRUPTED) from None
    print(summary_line(job))
    raise typer.Exit(outcome([job["status"]]))


def draw_live(client: Client, job_id: str, console: Console) -> Job:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            job = patiently(partial(client.job, job_id))
            series = patiently(partial(job.metrics, max_points=POINTS))
            live.update(picture(job, series, console.width, min(PLOT_HEIGHT, console.height - 4)), refresh=True)
            if job["terminal"]:
                return job
            time.sleep(PAUSE_SECONDS)


def picture(job: Job, series: Series, width: int, height: int) -> RenderableType:
    """Title, curves, progress bar."""
    curves = [Curve(label, style, _points(series.get(name, []))) for name, label, style in CURVES]
    title = Text.assemble((job["name"], "bold"), "  ", (job["status"], STYLES.get(job["status"], "")))
    if waits := (job.get("queue") or {}).get("reason"):
        title.append(f"  {waits['detail']}", "dim")
    return Group(title, plot(curves, min(width, 120), height), progress_row(job, series))


def progress_row(job: Job, series: Series) -> Table:
    progress = job.get("progress") or {}
    row = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=100, completed=progress.get("percent", 0.0), width=24)
    row.add_row(bar, *progress_facts(job, series))
    return row


def progress_facts(job: Job, series: Series) -> list[str]:
    """Epoch, loss, speed, time left: what every progress display of gradq shows."""
    progress = job.get("progress") or {}
    losses = series.get("train_loss") or series.get("batch_loss") or []
    left = progress.get("eta_seconds")
    return [
        f"{_round(job)} {progress.get('epoch', 0)}/{progress.get('epochs') or job['spec'].get('epochs', '-')}",
        f"loss {number(losses[-1][2])}" if losses else "",
        rate(progress.get("examples_per_second")),
        f"{span(left)} left" if left is not None and not job["terminal"] else "",
    ]


def _round(job: Job) -> str:
    return "batch" if job["kind"] == CHECK else "epoch"


def print_epochs(client: Client, job_id: str) -> Job:
    """One line an epoch, as soon as it is over."""
    printed, status = 0, ""
    while True:
        job = patiently(partial(client.job, job_id))
        series = patiently(partial(job.metrics, max_points=POINTS))
        if job["status"] != status and not job["terminal"]:
            status = job["status"]
            print(f"{job_id}  {status}", flush=True)
        ends = series.get("train_loss", [])
        for step, epoch, _ in [point for point in ends if point[1] > printed]:
            print(epoch_line(job, series, step, epoch), flush=True)
            printed = epoch
        if job["terminal"]:
            return job
        time.sleep(PAUSE_SECONDS)


def epoch_line(job: Job, series: Series, step: int, epoch: int) -> str:
    parts = [f"epoch {epoch}/{job['spec']['epochs']}"]
    for name in ("train_loss", "val_loss", "val_accuracy"):
        value = next((point[2] for point in series.get(name, []) if point[0] == step), None)
        if value is not None:
            parts.append(f"{name} {number(value)}")
    speed = next((point[2] for point in series.get("examples_per_second", []) if point[0] == step), None)
    return "  ".join([*parts, rate(speed)] if speed else parts)


def _points(points: list[list[Any]]) -> list[tuple[float, float]]:
    """A loss that was not finite is null in JSON."""
    return [(point[0], point[2]) for point in points if point[2] is not None]
