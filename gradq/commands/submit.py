"""The verb `submit`: builds job specs from options and files and queues them. Only the service validates specs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, TypeVar

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.problems import InvalidRequest
from gradq.commands.completion import among, complete_dataset, complete_preset
from gradq.commands.formatting import size, span, summary_line
from gradq.commands.options import AsJson, Token, Url, as_list, outcome, pairs, print_json
from gradq.commands.specs import PresetSpec, Spec, assignments, merged, name_or_json, read_specs
from gradq.commands.wait import wait_for

T = TypeVar("T")


def submit(
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='linear, mlp, cnn, or {"type":"mlp","hidden":[30]}.',
            autocompletion=among("linear", "mlp", "cnn"),
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A name or id that `gradq datasets` lists.", autocompletion=complete_dataset),
    ] = None,
    gradients: Annotated[
        str | None,
        typer.Option(
            metavar="WAY",
            help="autograd, or manual (hand-written backward passes).",
            autocompletion=among("autograd", "manual"),
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Learning rate, above 0.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the data.")] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="basic, sgd, adam, adamw, or an object.",
            autocompletion=among("basic", "sgd", "adam", "adamw"),
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Examples per step.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same run. Default: random.")] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="auto, cpu, cuda.", autocompletion=among("auto", "cpu", "cuda")),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="article/…: `gradq presets` lists them.", autocompletion=complete_preset),
    ] = None,
    init_from: Annotated[
        str | None, typer.Option("--init-from", metavar="ID", help="Start from the weights of this finished job.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Its name. Default: generated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("-l", "--label", metavar="K=V", help="A label. Repeatable.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=JSON", help="Any field: schedule=cosine, architecture.hidden=[64,32]."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("-f", "--file", metavar="FILE", help="A spec in YAML or JSON; - is standard input. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost; queue nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; exit like `gradq wait`.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="The same, with the job's loss curve.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="With --wait: exit 124 after this time.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Queue a training job; the service fills in the defaults.

    Later sources override earlier ones: file, --set, options; a --set with a
    dot then changes a part of a field. Each file is a job of its own.
    """
    given = {
        "architecture": name_or_json(architecture),
        "optimizer": name_or_json(optimizer),
        **{"dataset": dataset, "gradients": gradients, "lr": lr, "epochs": epochs, "batch_size": batch_size},
        **{"seed": seed, "device": device, "name": name, "preset": preset},
        "init_from": None if init_from is None else {"job": init_from},
    }
    options = {field: value for field, value in given.items() if value is not None}
    assigned, labels = assignments(set_), pairs(label, "--label")
    with Client(url, token) as client:
        specs = specs_of(file or [], assigned, options, labels, cache(partial(preset_spec, client)))
        if watch and len(specs) > 1:
            raise typer.BadParameter("shows one job; with several files use --wait", param_hint="--watch")
        if dry_run or len(specs) > 1:  # several jobs are queued only if all specs are valid
            costs = [_named(client.dry_run, spec, source) for source, spec in specs]
            if dry_run:
                _print(costs, as_json, cost_of)
                return
        jobs = [_named(client.submit, spec, source) for source, spec in specs]
        if not (as_json and (wait or watch)):
            _print(jobs, as_json, summary_line)
        if not (wait or watch):
            return
        if watch:
            from gradq.commands.watch import watched

            jobs = [watched(client, jobs[0].id, as_json)]
        else:
            jobs = wait_for(client, [job["id"] for job in jobs], timeout)
        _print(jobs, as_json, summary_line)
        raise typer.Exit(outcome([job["status"] for job in jobs]))


def specs_of(
    files: list[str], assigned: list[tuple[str, Any]], options: Spec, labels: dict[str, str], preset: PresetSpec
) -> list[tuple[str, Spec]]:
    """File and spec of each job; one job with file "" where no file was given."""
    found = [(file, spec) for file in files for spec in read_specs(file)] or [("", {})]
    specs = [(file, merged(spec, assigned, options, preset)) for file, spec in found]
    for _, spec in specs:
        if labels and isinstance(spec.get("labels", {}), dict):
            spec["labels"] = {**spec.get("labels", {}), **labels}
    return specs


def preset_spec(client: Client, name: str) -> Spec:
    """The fields that the service's preset sets; {} for an unknown preset."""
    return next((preset["spec"] for preset in client.presets() if preset["name"] == name), {})


def _named(call: Callable[[Spec], T], spec: Spec, file: str) -> T:
    """The service's answer. The message of an InvalidRequest names the file."""
    try:
        return call(spec)
    except InvalidRequest as error:
        if file:
            error.detail = f"{file}: {error.detail}"
        raise


def _print(rows: list[Any], as_json: bool, words: Callable[[Any], str]) -> None:
    if as_json:
        print_json(rows[0] if len(rows) == 1 else as_list(rows))
        return
    for row in rows:
        print(words(row), flush=True)


def cost_of(answer: dict[str, Any]) -> str:
    seconds, memory = span(answer["estimated_seconds"]), size(answer["estimated_memory_bytes"])
    parameters, steps = (f"{answer[name]:,}".replace(",", " ") for name in ("parameters", "steps"))
    return f"{parameters} parameters, {steps} steps, about {seconds} and {memory}\n({answer['basis']})"
