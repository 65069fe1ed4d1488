"""Jobs as people read them: a table in a terminal, plain columns in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Job = Mapping[str, Any]

COLUMNS = ("id", "name", "status", "gradients", "epoch", "loss", "accuracy", "device", "age")
DATASET_COLUMNS = ("id", "name", "shape", "classes", "train", "test", "here")
SHOWN = (  # in a terminal of at least so many columns; an id is never cut, since it is there to be copied
    (120, COLUMNS),
    (100, ("id", "name", "status", "epoch", "accuracy", "age")),
    (0, ("id", "name", "status", "age")),
)
LIKELIEST = 3
STYLES = {
    **{"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "cancelling": "yellow"},
    **{"pausing": "magenta", "paused": "magenta"},
}
CHECK = "gradient_check"  # the kind of a job that trains nothing


def jobs_table(jobs: list[Job], console: Console | None = None) -> None:
    console = console or Console()
    rows = [_row(job) for job in jobs]
    if not console.is_terminal:
        plain([list(COLUMNS), *rows], console)
        return
    if not jobs:
        console.print("no jobs yet; `gradq submit` makes one")
        return
    shown = next(columns for width, columns in SHOWN if console.width >= width)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    longest = {column: max(map(len, [column, *cells])) for column, *cells in zip(COLUMNS, *rows, strict=True)}
    room = console.width - sum(longest[column] + 1 for column in shown if column != "name") - 1
    for column in shown:
        justify: Literal["left", "right"] = "right" if column in ("epoch", "loss", "accuracy", "age") else "left"
        width = max(8, min(longest[column], room)) if column == "name" else longest[column]
        table.add_column(column, justify=justify, no_wrap=True, width=width)
    for row, job in zip(rows, jobs, strict=True):
        cells = dict(zip(COLUMNS, row, strict=True))
        styles = {"status": STYLES.get(job["status"], "")}
        table.add_row(*(Text(cells[column], style=styles.get(column, "")) for column in shown))
    console.print(table)


def job_page(job: Job, artifacts: list[dict[str, Any]], console: Console | None = None) -> None:
    """Everything about one job, one fact a line; facts that are not there yet are left out."""
    console = console or Console(highlight=False)
    spec, result, progress = job["spec"], job.get("result") or {}, job.get("progress") or {}
    facts: list[tuple[str, Any]] = [
        ("id", job["id"]),
        ("name", job["name"]),
        ("status", job["status"] + (f" (attempt {job['attempt']})" if job["attempt"] > 1 else "")),
        ("reason", _reason(job)),
        ("reproduces", job.get("reproduces")),
        ("spec", f"{architecture_of(spec)} on {spec['dataset']}, {gradients_of(job)}, seed {spec['seed']}"),
        ("training" if job["kind"] != CHECK else "check", _plan(job)),
        ("begins with", _origin(spec)),
        (
            "epoch" if job["kind"] != CHECK else "batch",
            f"{progress['epoch']} of {progress['epochs']}" if progress else None,
        ),
        ("train loss", number(result.get("train_loss"))),
        ("validation", _two(result.get("val_loss"), result.get("val_accuracy"))),
        ("test", _two(result.get("test_loss"), result.get("test_accuracy"))),
        ("speed", rate(result.get("examples_per_second") or progress.get("examples_per_second"))),
        ("seconds", number(result.get("duration_seconds"))),
        ("device", device_of(job)),
        ("reproduction", _reproduction(result.get("reproduction"))),
        ("gradient check", _check(result.get("gradient_check"))),
        ("weights", result.get("weights_sha256")),
        ("files", ", ".join(artifact["name"] for artifact in artifacts)),
    ]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        if value:
            console.print(Text(f"{name:<{width}}  {value}"), soft_wrap=True)


def summary_line(job: Job) -> str:
    """`job_…  succeeded  digits-mlp-manual-5c1f  loss 0.021  accuracy 0.972`"""
    parts = [job["id"], job["status"], job["name"]]
    result = job.get("result") or {}
    if result.get("train_loss") is not None:
        parts.append(f"loss {number(result['train_loss'])}")
    if result.get("test_accuracy") is not None:
        parts.append(f"accuracy {number(result['test_accuracy'])}")
    if reason := _reason(job):
        parts.append(reason)
    return "  ".join(parts)


def datasets_table(datasets: list[dict[str, Any]], console: Console | None = None) -> None:
    """One data set a line, with what a job's `dataset` must say for it in the first column."""
    console = console or Console()
    rows = [_dataset_row(dataset) for dataset in datasets]
    if not console.is_terminal:
        plain([list(DATASET_COLUMNS), *rows], console)
        return
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for column in DATASET_COLUMNS:
        table.add_column(column, no_wrap=column == "id", justify="right" if column in ("train", "test") else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def dataset_line(dataset: dict[str, Any]) -> str:
    """`ds_…  pets  3x32x32  2 classes  90 train  10 test`"""
    channels, height, width = dataset["shape"]
    counts = f"{len(dataset['classes'])} classes  {dataset['train_examples']} train  {dataset['test_examples']} test"
    return f"{dataset['id']}  {dataset['name']}  {channels}x{height}x{width}  {counts}"


def _dataset_row(dataset: dict[str, Any]) -> list[str]:
    shape, classes = "x".join(map(str, dataset["shape"])), str(len(dataset["classes"]))
    here = "yes" if dataset["available"] else "no"
    counts = [str(dataset["train_examples"]), str(dataset["test_examples"])]
    return [dataset["id"], dataset["name"], shape, classes, *counts, here]


def file_line(artifact: dict[str, Any], path: Path) -> str:
    return f"{size(artifact['size_bytes']):>10}  {path}"


def predictions_table(answer: dict[str, Any], console: Console) -> None:
    """One line an image: its file, its label, and the classes that are likeliest."""
    rows = []
    for prediction in answer["predictions"]:
        ranked = sorted(zip(prediction["probabilities"], answer["classes"], strict=True), key=lambda pair: -pair[0])
        likeliest = [f"{name} {share:.1%}" for share, name in ranked[:LIKELIEST]]
        rows.append([prediction.get("file") or "", prediction["class"], *likeliest])
    header = ["file", "label", "likeliest", *[""] * (LIKELIEST - 1)][: max(map(len, rows))]
    plain([header, *rows], console)


def architecture_of(spec: dict[str, Any]) -> str:
    found = spec.get("architecture")
    if not isinstance(found, dict):
        return str(found)
    if "name" in found:
        return str(found["name"])  # torchvision's
    sizes = found.get("channels", []) + found.get("hidden", [])
    return "-".join([found["type"], *map(str, sizes)])


def gradients_of(job: Job) -> str:
    return "gradients checked" if job["kind"] == CHECK else f"{job['spec']['gradients']} gradients"


def _plan(job: Job) -> str:
    spec = job["spec"]
    if job["kind"] == CHECK:
        referees = "autograd and finite differences" if spec["finite_differences"] else "autograd"
        return f"against {referees}, {spec['batches']} batches of {spec['batch_size']}"
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


def device_of(job: Job) -> str:
    attempts = job.get("attempts") or []
    return str((job.get("result") or {}).get("device") or (attempts[-1]["device"] if attempts else ""))


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
    """4 s, 3 min 20 s, 2 h 5 min, 3 d"""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 86_400 else f"{whole // 86_400} d"


def _row(job: Job) -> list[str]:
    result, progress = job.get("result") or {}, job.get("progress") or {}
    rounds, gradients = job["spec"].get("epochs"), job["spec"].get("gradients", "check")
    if job["kind"] == CHECK:
        rounds = job["spec"]["batches"]
    epochs = f"{progress['epoch']}/{progress['epochs']}" if progress else f"-/{rounds}"
    loss, accuracy = number(result.get("train_loss")), number(result.get("test_accuracy"))
    cells = [job["id"], job["name"], job["status"], gradients, epochs, loss, accuracy, device_of(job)]
    return [*(cell or "-" for cell in cells), span(_age(job["created_at"]))]


def _age(created_at: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds()


def plain(rows: list[list[str]], console: Console) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.file.write(line.rstrip() + "\n")


def _reason(job: Job) -> str:
    reason = job.get("status_reason") or (job.get("queue") or {}).get("reason")
    if not reason:
        return ""
    return f"{reason['code']}: {reason['detail']}" if reason.get("detail") else str(reason["code"])


def _two(loss: float | None, accuracy: float | None) -> str:
    return "" if loss is None else f"loss {number(loss)}, accuracy {number(accuracy)}"


def _check(check: dict[str, Any] | None) -> str:
    if not check:
        return ""
    verdict = "manual and autograd agree" if check["passed"] else "manual and autograd DIFFER"
    return f"{verdict} (largest relative error {check['max_relative_error']:.1e}, {check['dtype']})"
