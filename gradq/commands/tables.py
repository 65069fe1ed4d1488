"""Lists of jobs, datasets, workers, queues and tokens: tables in a terminal, plain columns in a pipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gradq.commands.formatting import age, rough, size, span
from gradq.commands.plain_text import escaped

if TYPE_CHECKING:  # imported where something is drawn
    from rich.console import Console

DATASET_COLUMNS = ("id", "name", "shape", "classes", "train", "test", "here")
WORKER_COLUMNS = ("id", "host", "devices", "slots", "free", "running", "version", "state", "seen")
TOKEN_COLUMNS = ("id", "name", "owner", "scope", "state", "priority", "expires", "used")
AUDIT_COLUMNS = ("at (UTC)", "who", "token", "from", "action", "on", "answer", "times")
QUEUE_COLUMNS = ("queue", "queued", "running", "paused", "slots", "free", "oldest", "why")
LIKELIEST = 3
TERMINAL_ALL_THE_SAME = ("FORCE_COLOR", "TTY_COMPATIBLE")  # rich treats a pipe as a terminal if one is set


def is_pipe(stream: IO[str]) -> bool:
    """Whether rich would treat the stream as a pipe; answers without importing rich, which is slow."""
    return not stream.isatty() and not any(name in os.environ for name in TERMINAL_ALL_THE_SAME)


def default_console() -> Console:
    from gradq.commands.plain_console import PlainConsole

    return PlainConsole()


def datasets_table(datasets: list[dict[str, Any]], console: Console | None = None) -> None:
    """One line per dataset; the first column is the value of a job's `dataset`."""
    _table(DATASET_COLUMNS, [_dataset_row(dataset) for dataset in datasets], console or default_console())


def workers_table(workers: list[dict[str, Any]], console: Console) -> None:
    """One line per worker: devices, slots, running jobs."""
    _table(WORKER_COLUMNS, [_worker_row(worker) for worker in workers], console)


def queues_table(queues: list[dict[str, Any]], console: Console) -> None:
    """One line per requested device: its jobs, and why they wait."""
    _table(QUEUE_COLUMNS, [_queue_row(queue) for queue in queues], console)


def tokens_table(tokens: list[dict[str, Any]], console: Console) -> None:
    """One line per token: owner, scope, state."""
    _table(TOKEN_COLUMNS, [_token_row(token) for token in tokens], console)


def _token_row(token: dict[str, Any]) -> list[str]:
    expires, used = token["expires_at"], token["last_used_at"]
    who = [token[name] for name in ("id", "name", "owner", "scope", "state")]
    priority = token["max_priority"]
    return [
        *who,
        "any" if priority is None else f"to {priority}",
        expires[:10] if expires else "never",
        f"{rough(age(used))} ago" if used else "never",
    ]


def audit_table(entries: list[dict[str, Any]], console: Console) -> None:
    """One line per change or refused call: time, owner, address, action."""
    _table(AUDIT_COLUMNS, [_audit_row(entry) for entry in entries], console)


def _audit_row(entry: dict[str, Any]) -> list[str]:
    when = entry["at"][:19].replace("T", " ")
    who = entry["owner"] or ("anonymous" if entry["address"] else "this host")
    rest = [str(entry[name] or "-") for name in ("token_id", "address", "action", "object_id", "status")]
    return [when, who, *rest, str(entry.get("count", 1))]


def _table(columns: Sequence[str], rows: list[list[str]], console: Console) -> None:
    if not console.is_terminal:
        plain([list(columns), *rows], console)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for column in columns:
        numbers = column in ("train", "test", "slots", "free", "queued", "paused")
        table.add_column(column, no_wrap=column == "id", justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    console.print(table)


def _worker_row(worker: dict[str, Any]) -> list[str]:
    slots = worker["devices"].get("slots") or [{"name": kind} for kind in worker["devices"].get("kinds", [])]
    devices = ", ".join(dict.fromkeys(slot["name"] for slot in slots))
    counts = [str(worker["slots"]), str(worker["free_slots"])]
    state = "draining" if worker["draining"] else worker.get("outage") or "ready"
    others = worker.get("others_running", 0)  # a service of version 0.1 does not send it
    running = ", ".join([*worker["running"], *([f"{others} of others"] if others else [])]) or "-"
    seen = span(age(worker["seen_at"]))
    return [worker["id"], worker["host"], devices, *counts, running, worker["version"], state, seen]


def _queue_row(queue: dict[str, Any]) -> list[str]:
    counts = [str(queue[name]) for name in ("queued", "running", "paused", "slots", "free_slots")]
    oldest = span(age(queue["oldest_queued_at"])) if queue["oldest_queued_at"] else "-"
    why = "; ".join(f"{reason['code']}: {reason['detail']}" for reason in queue["reasons"]) or "-"
    return [queue["name"], *counts, oldest, why]


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
    """One line per image: its file, its label, and the likeliest classes."""
    rows = []
    for prediction in answer["predictions"]:
        ranked = sorted(zip(prediction["probabilities"], answer["classes"], strict=True), key=lambda pair: -pair[0])
        likeliest = [f"{name} {share:.1%}" for share, name in ranked[:LIKELIEST]]
        rows.append([prediction.get("file") or "", prediction["class"], *likeliest])
    header = ["file", "label", "likeliest", *[""] * (LIKELIEST - 1)][: max(map(len, rows))]
    plain([header, *rows], console)


def plain(rows: list[list[str]], console: Console) -> None:
    write_columns(rows, console.file)


def write_columns(rows: list[list[str]], out: IO[str]) -> None:
    """Writes one line per row, each column as wide as its longest cell."""
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.write(line.rstrip() + "\n")
