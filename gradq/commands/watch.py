"""The verb `watch`: a job's loss curve, redrawn as its events come; in a pipe, one line per epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.events import Event
from gradq.client.job import Job
from gradq.commands.formatting import STYLES, number, progress_words, rate, reason_of, summary_line
from gradq.commands.options import AsJson, Exit, JobId, Token, Url, outcome, print_json_line
from gradq.commands.plain_console import PlainConsole
from gradq.commands.plot import Curve, plot
from gradq.commands.wait import PATIENCE_SECONDS, patiently

FRAME_SECONDS = 0.25  # the least time between two frames
LOOK_SECONDS = 1.0  # the most time between two requests for progress or queue position
CURVES = (("batch_loss", "batch", "bright_black"), ("train_loss", "train", "bright_blue"), ("val_loss", "val", "red"))
PLOT_HEIGHT = 18

Series = dict[str, list[list[Any]]]


def watch(job_id: JobId, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Follow one job with its loss curve; exits like `gradq wait`.

    Ctrl-C stops watching; the job continues. In a pipe it prints one line per
    epoch, with --json one line per event and the job at the end.
    """
    with Client(url, token) as client:
        job = watched(client, job_id, as_json)
    print_json_line(job) if as_json else print(summary_line(job))
    raise typer.Exit(outcome([job["status"]]))


def watched(client: Client, job_id: str, as_json: bool = False) -> Job:
    """The ended job; follows it as a drawing on a terminal, as lines in a pipe, as JSON with `as_json`."""
    console = PlainConsole()
    try:
        if as_json:
            return print_events(client.job(job_id, patience=PATIENCE_SECONDS))
        drawing = console.is_terminal and console.encoding.lower().startswith("utf")
        if drawing:
            return draw_live(client, job_id, console)
        return print_epochs(client.job(job_id, patience=PATIENCE_SECONDS))
    except KeyboardInterrupt:
        print(f"{job_id} continues; `gradq watch {job_id}` follows it again, `gradq cancel {job_id}` ends it")
        raise typer.Exit(Exit.INTERRUPTED) from None


# --- on a terminal ----------------------------------------------------------------------------------------------------


class Listener(threading.Thread):
    """Reads the job's events into curves, while another thread draws."""

    def __init__(self, job: Job) -> None:
        super().__init__(name="events", daemon=True)
        self.job = job
        self.series: Series = {}
        self.error: Exception | None = None
        self.news = threading.Event()

    def run(self) -> None:
        try:
            for event in self.job.watch():
                for name, value in event.metrics.items():
                    self.series.setdefault(name, []).append([event.step, event.epoch, value])
                self.news.set()
        except Exception as error:  # raised by the thread that draws
            self.error = error
        self.news.set()


def draw_live(client: Client, job_id: str, console: Console) -> Job:
    """Redraws after events, and at least once per second for time left and queue position; returns the ended job."""
    job = client.job(job_id, patience=PATIENCE_SECONDS)
    listener = Listener(client.job(job_id, fetch=False))
    listener.start()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            over = not listener.is_alive()
            patiently(job.refresh)
            curves = {name: list(points) for name, points in list(listener.series.items())}
            live.update(picture(job, curves, console.width, min(PLOT_HEIGHT, console.height - 4)), refresh=True)
            if listener.error is not None:
                raise listener.error
            if over:
                return job
            time.sleep(FRAME_SECONDS)
            listener.news.wait(LOOK_SECONDS - FRAME_SECONDS)
            listener.news.clear()


def picture(job: Job, series: Series, width: int, height: int) -> RenderableType:
    """Title, curves, progress bar."""
    curves = [Curve(label, style, _points(series.get(name, []))) for name, label, style in CURVES]
    title = Text.assemble((job["name"], "bold"), "  ", (job["status"], STYLES.get(job["status"], "")))
    if queue := job.get("queue"):
        title.append(f"  number {queue['position']}: {queue['reason']['detail']}", "dim")
    elif job.get("status_reason"):
        title.append(f"  {reason_of(job)}", "dim")
    return Group(title, plot(curves, min(width, 120), height), progress_row(job, series))


def progress_row(job: Job, series: Series) -> Table:
    row = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(
        total=100,
        completed=(job.get("progress") or {}).get("percent", 0.0),
        width=24,
        complete_style="cyan",
        finished_style="green",
    )
    row.add_row(bar, *progress_facts(job, series))
    return row


def progress_facts(job: Job, series: Series) -> list[str]:
    """Epoch, loss, speed, time left, as every progress display shows them."""
    losses = series.get("train_loss") or series.get("batch_loss") or []
    epoch, *others = progress_words(job) or [f"{job['spec'].get('epochs', '-')} epochs to go"]
    return [epoch, *([f"loss {number(losses[-1][2])}"] if losses else []), *others]


def _points(points: list[list[Any]]) -> list[tuple[float, float]]:
    """(step, value) of each point, without values that were not finite, which are None."""
    return [(point[0], point[2]) for point in points if point[2] is not None]


# --- in a pipe --------------------------------------------------------------------------------------------------------


def print_events(job: Job) -> Job:
    for event in job.watch():
        print_json_line(event.json)
    return job


def print_epochs(job: Job) -> Job:
    """Prints one line per finished epoch and per change of state; returns the ended job."""
    for event in job.watch():
        if event.status not in (None, "succeeded", "failed", "cancelled"):
            print(f"{job.id}  {event.status}", flush=True)
        if is_epoch(event):
            print(epoch_line(job, event.epoch or 0, event.metrics), flush=True)
    return job


def is_epoch(event: Event) -> bool:
    return "train_loss" in event.metrics


def epoch_line(job: Mapping[str, Any], epoch: int, values: Mapping[str, float | None]) -> str:
    """`epoch 2/5  train_loss 0.31  val_loss 0.29  val_accuracy 0.93  210 000 examples/s`"""
    parts = [f"epoch {epoch}/{job['spec']['epochs']}"]
    parts += [
        f"{name} {number(values.get(name))}" for name in ("train_loss", "val_loss", "val_accuracy") if name in values
    ]
    speed = values.get("examples_per_second")
    return "  ".join([*parts, rate(speed)] if speed else parts)
