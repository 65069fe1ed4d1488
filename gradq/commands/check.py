"""The verb `check`: queue a job that compares manual gradients with autograd's and finite differences."""

from __future__ import annotations

from typing import Annotated

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.formatting import summary_line
from gradq.commands.gradient_table import print_check
from gradq.commands.options import AsJson, Exit, Token, Url, outcome, print_json
from gradq.commands.specs import assignments, merged, name_or_json
from gradq.commands.wait import wait_for


def check(
    architecture: Annotated[
        str | None, typer.Option(help='linear, mlp, cnn, or {"type":"mlp","batch_norm":true}.')
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="digits, mnist, …")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same check. Default: random.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=JSON", help="Another field: batches=5, samples=100. Repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait and print the table; exit 1 on a difference.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="With --wait: seconds until exit 124.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Queue a gradient check: manual gradients against autograd's, in float64."""
    given = {"architecture": name_or_json(architecture), "dataset": dataset, "seed": seed}
    options = {field: value for field, value in given.items() if value is not None}
    spec = merged({}, assignments(set_), options)
    with Client(url, token) as client:
        job = client.check(spec)
        if wait:
            [job] = wait_for(client, [job["id"]], timeout)
    if as_json:
        print_json(job)
    else:
        print(summary_line(job), flush=True)
        print_check((job.get("result") or {}).get("gradient_check"))
    raise typer.Exit(outcome([job["status"]]) if wait else Exit.SUCCEEDED)
