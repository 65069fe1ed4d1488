"""The verb `watch`: a job's loss curve, drawn anew as its events come; one line an epoch where nobody draws."""

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
from gradq.commands.plot import Curve, plot
from gradq.commands.wait import patiently

FRAME_SECONDS = 0.25  # the least between two pictures
LOOK_SECONDS = 1.0  # the most between two looks at progress, or at the queue
CURVES = (("batch_loss", "batch", "bright_black"), ("train_loss", "train", "bright_blue"), ("val_loss", "val", "red"))
PLOT_HEIGHT = 18

Series = dict[str, list[list[Any]]]


def watch(job_id: JobId, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Follow one job with its loss curve; exits like `gradq wait`.

    Ctrl-C ends the watching; the job goes on. In a pipe a line an epoch, with
    --json a line an event and the job at last.
    """
    with Client(url, token) as client:
        job = watched(client, job_id, as_json)
    print_json_line(job) if as_json else print(summary_line(job))
    raise typer.Exit(outcome([job["status"]]))


def watched(client: Client, job_id: str, as_json: bool = False) -> Job:
    """The job as it ended, shown meanwhile in the way that fits who looks."""
    console = Console()
    try:
        if as_json:
            return print_events(client.job(job_id))
        drawing = console.is_terminal and console.encoding.lower().startswith("utf")
        return draw_live(client, job_id, console) if drawing else print_epochs(client.job(job_id))
    except KeyboardInterrupt:
        print(f"{job_id} goes on; `gradq watch {job_id}` looks again, `gradq cancel {job_id}` ends it")
        raise typer.Exit(Exit.INTERRUPTED) from None


# --- a picture --------------------------------------------------------------------------------------------------------


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
        except Exception as error:  # told by the thread that draws
            self.error = error
        self.news.set()


def draw_live(client: Client, job_id: str, console: Console) -> Job:
    """A new picture whenever something came, and once a second for the clock and the queue."""
    job = client.job(job_id)
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
    """Epoch, loss, speed, time left: what every progress display of gradq shows."""
    losses = series.get("train_loss") or series.get("batch_loss") or []
    epoch, *others = progress_words(job) or [f"{job['spec'].get('epochs', '-')} epochs to go"]
    return [epoch, *([f"loss {number(losses[-1][2])}"] if losses else []), *others]


def _points(points: list[list[Any]]) -> list[tuple[float, float]]:
    """A loss that was not finite is null in JSON."""
    return [(point[0], point[2]) for point in points if point[2] is not None]


# --- lines ------------------------------------------------------------------------------------------------------------


def print_events(job: Job) -> Job:
    for event in job.watch():
        print_json_line(event.json)
    return job


def print_epochs(job: Job) -> Job:
    """One line an epoch, as soon as it is over, and one for each state that it goes through."""
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
