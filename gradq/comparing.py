"""The verb `compare`: jobs side by side, as tables, as a curve in the terminal, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradq.client import DEFAULT_URL, Client
from gradq.comparison import METRICS, Curves, Row, distances, results, same_weights, spec_differences, to_json
from gradq.completion import among
from gradq.job import Job
from gradq.options import AsJson, JobIds, Token, Url, print_json
from gradq.overlay import FORMATS, draw
from gradq.plot import Curve, plot
from gradq.tables import plain
from gradq.words import gradients_of, number

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
            help="Which curve to draw; repeatable. Default: train_loss, in a picture val_loss too.",
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
    """Hold jobs side by side: specs, results, curves, weights.

    Distances are those from the first job's curve, over all steps.
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
    console = Console(highlight=False)
    _print_tables(jobs, curves, console)
    if console.is_terminal and console.encoding.lower().startswith("utf"):
        console.print()
        console.print(_plotted(jobs, curves, (metric or PICTURED)[0], console))
    if output is not None:
        print(f"\n{output}")


def _check(job_ids: list[str], metrics: list[str], output: Path | None) -> None:
    if len(job_ids) < 2:
        raise typer.BadParameter("takes two jobs or more: gradq compare ID ID", param_hint="ID…")
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise typer.BadParameter(
            f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}", param_hint="--metric"
        )
    if output is not None and output.suffix not in FORMATS:
        raise typer.BadParameter(f"{output} must end in {', '.join(FORMATS)}", param_hint="--output")


# --- a picture --------------------------------------------------------------------------------------------------------


def _write(output: Path, jobs: Sequence[Job], curves: Sequence[Curves], metrics: Sequence[str]) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(output, names_of(jobs), curves, metrics, _verdict(jobs, curves))
    except OSError as error:
        raise typer.BadParameter(f"cannot write {output}: {error.strerror}", param_hint="--output") from error


def names_of(jobs: Sequence[Job]) -> list[str]:
    """What tells the jobs apart in a legend: the gradients where these do, else their names, else their ids."""
    for names in ([gradients_of(job) for job in jobs], [job["name"] for job in jobs]):
        if len(set(names)) == len(jobs):
            return names
    return [job["id"] for job in jobs]


def _plotted(jobs: Sequence[Job], curves: Sequence[Curves], metric: str, console: Console) -> Text:
    lines = [
        Curve(
            f"{metric} {name}",
            COLOURS[i % len(COLOURS)],
            [(p[0], p[2]) for p in series.get(metric, []) if p[2] is not None],
        )
        for i, (name, series) in enumerate(zip(names_of(jobs), curves, strict=True))
    ]
    return plot(lines, min(console.width, 120), min(PLOT_HEIGHT, console.height - 2))


# --- words ------------------------------------------------------------------------------------------------------------


def _print_tables(jobs: Sequence[Job], curves: Sequence[Curves], console: Console) -> None:
    header = Row("", [job["id"] for job in jobs])
    differing = spec_differences(jobs)
    _print_rows("what differs in the specs", header, differing or [Row("nothing", ["" for _ in jobs])], console)
    _print_rows("results", header, results(jobs), console)
    print(_verdict(jobs, curves))


def _verdict(jobs: Sequence[Job], curves: Sequence[Curves]) -> str:
    """`largest difference: train_loss 0, val_loss 1.2e-07 at step 420; weights: the same, bit for bit`"""
    parts = [f"{d.metric} {number(d.largest)}" + (f" at step {d.step}" if d.largest else "") for d in distances(curves)]
    weights = {True: "the same, bit for bit", False: "not the same", None: "not all there yet"}[same_weights(jobs)]
    return f"largest difference: {', '.join(parts) or 'no step in common'}\nweights: {weights}"


def _print_rows(title: str, header: Row, rows: Sequence[Row], console: Console) -> None:
    texts = [[row.name, *(_shown(row.name, value) for value in row.values)] for row in rows]
    if not console.is_terminal:
        plain([[title, *header.values], *texts], console)
        print()
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in [title, *header.values]:
        table.add_column(column, overflow="fold")
    for row, cells in zip(rows, texts, strict=True):
        table.add_row(cells[0], *(Text(cell, "" if row.equal else "yellow") for cell in cells[1:]))
    console.print(table)
    console.print()


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("sha256"):
        return str(value)[:HASH_LENGTH]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
