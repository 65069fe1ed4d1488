"""The verb `compare`: jobs side by side, as tables, as curves in the terminal, as an image file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.job import Job
from gradq.commands.comparison import METRICS, Curves, Row, distances, results, same_weights, spec_differences, to_json
from gradq.commands.completion import among
from gradq.commands.curves_picture import FORMATS, draw
from gradq.commands.formatting import architecture_of, gradients_of, number
from gradq.commands.options import AsJson, JobIds, Token, Url, print_json
from gradq.commands.plain_console import PlainConsole
from gradq.commands.plot import Curve, plot
from gradq.commands.tables import plain

HASH_LENGTH = 12
PLOT_HEIGHT = 16
COLOURS = ("bright_blue", "red", "green", "magenta", "yellow", "cyan")
PICTURED = ("train_loss", "val_loss")


def compare(
    job_ids: JobIds,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--metric",
            metavar="NAME",
            help="Curve to draw. Repeatable. Default: train_loss, and val_loss in a file.",
            autocompletion=among(*METRICS),
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the curves as .png, .svg or .pdf.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Compare jobs side by side: specs, results, curves, weights.

    Curves are compared with the first job's, at the steps that both have.
    """
    _check(job_ids, metric or [], output)
    with Client(url, token) as client:
        jobs = [client.job(job_id) for job_id in job_ids]
        curves = [job.metrics() for job in jobs]
    if output is not None:
        _write(output, jobs, curves, metric or PICTURED)
    if as_json:
        print_json({**to_json(jobs, curves), "picture": None if output is None else str(output)})
        return
    console = PlainConsole()
    _print_tables(jobs, curves, console)
    if console.is_terminal and console.encoding.lower().startswith("utf"):
        console.print(f"\n{(metric or PICTURED)[0]}", style="bold")
        console.print(_plotted(jobs, curves, (metric or PICTURED)[0], console))
    if output is not None:
        print(f"\n{output}")


def _check(job_ids: list[str], metrics: list[str], output: Path | None) -> None:
    if len(job_ids) < 2:
        raise typer.BadParameter("needs two or more jobs: gradq compare ID ID", param_hint="ID")
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise typer.BadParameter(
            f"unknown metric {', '.join(unknown)}; must be one of {', '.join(METRICS)}", param_hint="--metric"
        )
    if output is not None and output.suffix not in FORMATS:
        raise typer.BadParameter(f"{output} must end in {', '.join(FORMATS)}", param_hint="--output")


# --- an image file ----------------------------------------------------------------------------------------------------


def _write(output: Path, jobs: Sequence[Job], curves: Sequence[Curves], metrics: Sequence[str]) -> None:
    if not any(point[2] is not None for series in curves for metric in metrics for point in series.get(metric, [])):
        raise typer.BadParameter(
            f"nothing to draw: none of these jobs has {' or '.join(metrics)}", param_hint="--output"
        )
    drawn = [distance.largest for distance in distances(curves) if distance.metric in metrics]
    apart = f"largest difference between the curves: {number(max(drawn))}" if drawn else "no step in common"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(output, names_of(jobs), curves, metrics, [title_of(jobs), f"{apart}; weights: {_weights(jobs)}"])
    except OSError as error:
        raise typer.BadParameter(f"cannot write {output}: {error.strerror}", param_hint="--output") from error


def names_of(jobs: Sequence[Job]) -> list[str]:
    """The jobs' names in a legend: the kind of gradients if all differ, else the names, else the ids."""
    for names in ([gradients_of(job) for job in jobs], [job["name"] for job in jobs]):
        if len(set(names)) == len(jobs):
            return names
    return [job["id"] for job in jobs]


def title_of(jobs: Sequence[Job]) -> str:
    """`mlp-30 on digits, seed 7`; the seed only if all jobs share it."""
    specs = [job["spec"] for job in jobs]
    nets = {f"{architecture_of(spec)} on {spec['dataset']}" for spec in specs}
    seeds = {spec["seed"] for spec in specs}
    return ", ".join(sorted(nets)) + (f", seed {seeds.pop()}" if len(seeds) == 1 else "")


def _plotted(jobs: Sequence[Job], curves: Sequence[Curves], metric: str, console: Console) -> Text:
    """The first job's curve solid, the others dashed, so that an equal curve below shows in the gaps."""
    lines = []
    for i, (name, series) in enumerate(zip(names_of(jobs), curves, strict=True)):
        points = [(point[0], point[2]) for point in series.get(metric, []) if point[2] is not None]
        lines.append(Curve(name, COLOURS[i % len(COLOURS)], points, dashed=i > 0))
    return plot(lines, min(console.width, 120), min(PLOT_HEIGHT, console.height - 2))


# --- tables -----------------------------------------------------------------------------------------------------------


def _print_tables(jobs: Sequence[Job], curves: Sequence[Curves], console: Console) -> None:
    """The jobs, numbered, since ids are too wide for columns; then spec differences, results and curve distances."""
    numbers = [str(i) for i in range(1, len(jobs) + 1)]
    for place, job in zip(numbers, jobs, strict=True):
        print(f"{place}  {job['id']}  {job['status']}  {job['name']}")
    print()
    differing = spec_differences(jobs) or [Row("nothing", ["" for _ in jobs])]
    _print_rows(["what differs in the specs", *numbers], differing, console)
    _print_rows(["results", *numbers], results(jobs), console)
    far = [Row(d.metric, [d.largest, d.step, d.points]) for d in distances(curves)]
    if far:
        _print_rows(["curves", "largest difference", "at step", "points"], far, console, mark=False)
    print(f"weights: {_weights(jobs)}")


def _weights(jobs: Sequence[Job]) -> str:
    return {True: "the same, bit for bit", False: "not the same", None: "not in every job"}[same_weights(jobs)]


def _print_rows(header: list[str], rows: Sequence[Row], console: Console, mark: bool = True) -> None:
    """Prints a table. In a terminal, with `mark`, rows whose values differ are coloured."""
    texts = [[row.name, *(_shown(row.name, value) for value in row.values)] for row in rows]
    if not console.is_terminal:
        plain([header, *texts], console)
    else:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in header:
            table.add_column(column, overflow="fold")
        for row, cells in zip(rows, texts, strict=True):
            style = "yellow" if mark and not row.equal else ""
            table.add_row(cells[0], *(Text(cell, style) for cell in cells[1:]))
        console.print(table)
    print()


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("sha256"):
        return str(value)[:HASH_LENGTH]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
