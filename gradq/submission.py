"""The verb `submit`: options and files to a job spec. What is right in a spec, the service decides, not this page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gradq.client import DEFAULT_URL, Client
from gradq.job import Job
from gradq.options import AsJson, Token, Url, outcome, print_json
from gradq.steering import wait_for
from gradq.tables import size, span, summary_line


def submit(
    architecture: Annotated[str | None, typer.Option(help='linear, mlp, cnn, or {"type":"mlp","hidden":[30]}.')] = None,
    dataset: Annotated[str | None, typer.Option(help="A name or id that `gradq datasets` lists.")] = None,
    gradients: Annotated[str | None, typer.Option(help="autograd, or manual: the chain rule by hand.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, above 0.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="basic, sgd, adam, adamw, or an object.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same run. Default: drawn.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
    preset: Annotated[str | None, typer.Option(help="article/…: `gradq presets` lists them.")] = None,
    name: Annotated[str | None, typer.Option(help="A name to find it by. Default: made up.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A label; may be repeated.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=JSON", help="Any other field of the spec; may be repeated."),
    ] = None,
    file: Annotated[
        str | None, typer.Option("-f", "--file", metavar="FILE", help="A spec as JSON; - is standard input.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; queue nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exit like `gradq wait`.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="With --wait: seconds, then exit 124.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Queue a training job. What you leave out, the service fills in.

    Later sources win: the file, then --set, then the options.
    """
    given = {
        "architecture": name_or_json(architecture),
        "optimizer": name_or_json(optimizer),
        **{"dataset": dataset, "gradients": gradients, "lr": lr, "epochs": epochs, "batch_size": batch_size},
        **{"seed": seed, "device": device, "name": name, "preset": preset},
    }
    spec = read_spec(file) if file is not None else {}
    spec |= assignments(set_)
    spec |= {field: value for field, value in given.items() if value is not None}
    if label:
        spec["labels"] = {**spec.get("labels", {}), **dict(_pair(text, "--label") for text in label)}
    with Client(url, token) as client:
        if dry_run:
            answer = client.dry_run(spec)
            print_json(answer) if as_json else print(cost_of(answer))
            return
        job = client.submit(spec)
        if not wait:
            _show(job, as_json)
            return
        if not as_json:
            _show(job, as_json)
        [ended] = wait_for(client, [job["id"]], timeout)
        _show(ended, as_json)
        raise typer.Exit(outcome([ended["status"]]))


def cost_of(answer: dict[str, Any]) -> str:
    seconds, memory = span(answer["estimated_seconds"]), size(answer["estimated_memory_bytes"])
    parameters, steps = (f"{answer[name]:,}".replace(",", " ") for name in ("parameters", "steps"))
    return f"{parameters} parameters, {steps} steps, about {seconds} and {memory}\n({answer['basis']})"


def read_spec(file: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--file") from error
    try:
        spec = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}", param_hint="--file") from error
    if not isinstance(spec, dict):
        raise typer.BadParameter(f"{file} must hold a JSON object", param_hint="--file")
    return spec


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        print(summary_line(job), flush=True)


def name_or_json(text: str | None) -> Any:
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not JSON: {error}") from error


def assignments(texts: list[str] | None) -> dict[str, Any]:
    return dict(_assignment(text) for text in texts or [])


def _assignment(text: str) -> tuple[str, Any]:
    """`epochs=3`, `loss={"type":…}`; what is not JSON is text: `gradients=manual`."""
    field, value = _pair(text, "--set")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _pair(text: str, option: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise typer.BadParameter(f"must be KEY=VALUE, got {text!r}", param_hint=option)
    return key, value
