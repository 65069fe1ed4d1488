"""The demo: the embedded service, and the same training twice, with manual and with autograd gradients.

Uses the service as users do: `gradq up` in a process of its own, jobs over HTTP, files downloaded and checked.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from gradq import own_packages
from gradq.client.blocking import Client
from gradq.client.job import Job
from gradq.commands.comparison import largest_difference
from gradq.commands.failure import CommandError
from gradq.commands.formatting import architecture_of, number, rate, size
from gradq.commands.plain_console import PlainConsole
from gradq.commands.watch import epoch_line, progress_facts

if TYPE_CHECKING:
    from shared.config import Settings

SEED = 7
GRADIENTS = ("manual", "autograd")
SPECS: dict[str, dict[str, Any]] = {
    "digits": {"architecture": "mlp", "lr": 0.1, "epochs": 12, "batch_size": 16},
    "mnist": {"architecture": {"type": "mlp", "hidden": [128]}, "lr": 0.1, "epochs": 4},
}
READY_SECONDS, DEMO_SECONDS, STOP_SECONDS = 120.0, 900.0, 60.0
PAUSE_SECONDS = 0.1


class DemoFailed(CommandError):
    code = "demo_failed"


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the demo's files.")] = Path("demo-output"),
) -> None:
    """Show gradq: two trainings with the same seed, manual and autograd gradients."""
    from shared.config import Settings
    from shared.datasets.catalog import DATASETS

    console = PlainConsole()
    settings = Settings.from_env()
    output = output.absolute()
    here = [name for name in SPECS if not DATASETS[name].missing_files(settings.datasets_dir)]
    console.print("gradq demo: the same training twice, with manual and with autograd gradients\n")
    with embedded_service(fresh_state(output), settings) as url, Client(url, token="") as client:  # nosec B106
        console.print(f"service ready at {url}")
        submitted = {
            (name, gradients): client.submit({**SPECS[name], "dataset": name, "gradients": gradients, "seed": SEED})
            for name in here
            for gradients in GRADIENTS
        }
        ended = follow(client, {key: job["id"] for key, job in submitted.items()}, console)
        curves = {key: job.metrics() for key, job in ended.items()}
        console.print()
        console.print(results_table(ended, curves))
        console.print(
            "difference: the largest between the two loss curves (batches, training, validation)", style="dim"
        )
        if failed := [job for job in ended.values() if job["status"] != "succeeded"]:
            raise DemoFailed("\n".join(_why(job) for job in failed))
        list_files(ended, output, console)
    for name in sorted(set(SPECS) - set(here)):
        console.print(
            f"\nnot shown: {name}; its files are not in GRADQ_DATA_DIR ({settings.datasets_dir})", soft_wrap=True
        )
    console.print("\neverything that was started has been stopped")


# --- the service ------------------------------------------------------------------------------------------------------


def fresh_state(output: Path) -> Path:
    """An empty state folder. Raises AlreadyRunning if a service of an earlier demo still runs in it."""
    from gradq.local.folders import private
    from gradq.local.instance import only_one

    state = output / "state"
    private(state)
    with only_one(state, "preparing a demo"):
        pass
    shutil.rmtree(state)
    return private(state)


@contextmanager
def embedded_service(state: Path, settings: Settings) -> Iterator[str]:
    """`gradq up` on a free port, with its own database, broker and files; GRADQ_ settings of others do not apply."""
    from gradq.local.children import end_with_parent

    kept = {"GRADQ_DATA_DIR": settings.datasets_dir, "GRADQ_DOWNLOAD": "false"}
    kept |= {"GRADQ_SLOTS": settings.slots, "GRADQ_THREADS_PER_SLOT": settings.threads_per_slot}
    env = own_packages.environment({name: os.environ[name] for name in os.environ if not name.startswith("GRADQ_")})
    env |= {name: str(value) for name, value in kept.items() if value is not None}
    output = state.parent / "service.log"
    command = own_packages.python("-m", "gradq", "up", "--port", "0", "--state", str(state))
    with output.open("wb") as log:
        process = subprocess.Popen(  # our own interpreter and arguments  # nosec B603
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(os.getpid()),
        )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield _wait_until_ready(process, output)
    finally:
        signal.signal(signal.SIGTERM, before)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _wait_until_ready(process: subprocess.Popen[bytes], output: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        for line in output.read_text(errors="replace").splitlines():
            if line.startswith("ready "):
                return line.removeprefix("ready ")
        if process.poll() is not None:
            raise DemoFailed(f"the service did not start:\n{output.read_text(errors='replace').strip()}")
        time.sleep(PAUSE_SECONDS)
    raise DemoFailed(f"the service was not ready after {READY_SECONDS:g} s; its logs are in {output.parent}/state/logs")


# --- progress ---------------------------------------------------------------------------------------------------------

Key = tuple[str, str]  # (dataset, gradients)


def follow(client: Client, job_ids: dict[Key, str], console: Console) -> dict[Key, Job]:
    """The ended jobs. Shows one bar per job on a terminal, one line per epoch elsewhere."""
    columns = (
        TextColumn("{task.description:<18}", markup=False),
        BarColumn(28),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    deadline = time.monotonic() + DEMO_SECONDS
    printed = dict.fromkeys(job_ids, 0)
    jobs: dict[Key, Job] = {}
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bars:
        tasks = {key: bars.add_task(" ".join(key), total=100, facts="queued") for key in job_ids}
        while len(jobs) < len(job_ids):
            for key, job_id in job_ids.items():
                if key in jobs:
                    continue
                job = client.job(job_id)
                series = job.metrics(max_points=1000)
                _move(bars, tasks[key], job, series)
                if not console.is_terminal:
                    printed[key] = _print_new_epochs(key, job, series, printed[key])
                if job["terminal"]:
                    jobs[key] = job
            bars.refresh()
            if time.monotonic() > deadline:
                raise DemoFailed(f"not all jobs had ended after {DEMO_SECONDS:g} s")
            time.sleep(PAUSE_SECONDS)
    return {key: jobs[key] for key in job_ids}


def _move(bars: Progress, task: TaskID, job: Job, series: dict[str, list[list[Any]]]) -> None:
    if job["terminal"]:
        speed = rate((job.get("result") or {}).get("examples_per_second"))
        facts = "  ".join([*progress_facts(job, series)[:2], speed, job["status"]])
        bars.update(task, completed=100 if job["status"] == "succeeded" else None, facts=facts)
    elif job["status"] == "queued":
        bars.update(task, facts="queued")
    else:
        facts = "  ".join(progress_facts(job, series))
        bars.update(task, completed=(job["progress"] or {}).get("percent", 0), facts=facts)


def _print_new_epochs(key: Key, job: Job, series: dict[str, list[list[Any]]], printed: int) -> int:
    for step, epoch, _ in [point for point in series.get("train_loss", []) if point[1] > printed]:
        values = {name: point[2] for name, points in series.items() for point in points if point[0] == step}
        print(f"{' '.join(key):<18} {epoch_line(job, epoch, values)}", flush=True)
        printed = epoch
    return printed


# --- results ----------------------------------------------------------------------------------------------------------

RunCurves = dict[str, list[list[Any]]]


def results_table(jobs: dict[Key, Job], curves: dict[Key, RunCurves]) -> Table:
    table = Table(title="same seed, same data, two ways to the gradient", title_justify="left", title_style="bold")
    table.box, table.show_edge, table.pad_edge = box.SIMPLE_HEAD, False, False
    for column in ("data", "model", "gradients"):
        table.add_column(column)
    for column in ("test accuracy", "train loss", "seconds", "difference"):
        table.add_column(column, justify="right")
    for (name, gradients), job in jobs.items():
        result = job.get("result") or {}
        accuracy = result.get("test_accuracy")
        table.add_row(
            name,
            architecture_of(job["spec"]),
            gradients,
            f"{accuracy:.2%}" if accuracy is not None else job["status"],
            f"{result['train_loss']:.6f}" if result.get("train_loss") is not None else "",
            f"{result['training_seconds']:.1f}" if result else "",
            _difference(curves[name, GRADIENTS[0]], curves[name, GRADIENTS[1]]) if gradients == GRADIENTS[1] else "",
        )
    return table


def _difference(one: RunCurves, other: RunCurves) -> str:
    found = largest_difference(one, other)
    return "" if found is None else "0" if found == 0 else number(found)


def list_files(jobs: dict[Key, Job], output: Path, console: Console) -> None:
    console.print("\nfiles:")
    for (name, gradients), job in jobs.items():
        folder = output / f"{name}-{gradients}"
        shutil.rmtree(folder, ignore_errors=True)
        files = job.download(folder)
        shown = [file for file in files if file.name in ("loss_curve.png", "model.safetensors")]
        for file in sorted(shown):
            console.print(f"  {_from_here(file)}  ({size(file.stat().st_size)})", soft_wrap=True)
        console.print(f"  {_from_here(folder)}/  and {len(files) - len(shown)} more", soft_wrap=True, style="dim")


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _why(job: Job) -> str:
    reason = job.get("status_reason") or {}
    lines = [event.message for event in job.events() if event.level == "error"]
    return f"{job['id']} {job['status']}: {reason.get('code', '')} {reason.get('detail', '')}\n" + "\n".join(lines[-5:])
